#pragma once
// Requantization as published, in __int128. gemmlowp's rule is the one of its documentation: the accumulator, shifted
// left and saturated, times a fixed-point number with 31 fractional bits, rounded to nearest with ties upwards; then
// divided by a power of two, rounded to nearest with ties away from zero.
#include <algorithm>
#include <cstdint>

#include "oracle/rounding.h"
#include "qstep/core/requantize.h"

namespace qstep::oracle {

inline Wide saturate_int32(Wide x) { return std::clamp<Wide>(x, INT32_MIN, INT32_MAX); }

inline Wide requantize(int64_t accumulator, core::Multiplier m, core::RequantPolicy policy) {
  const Wide acc = accumulator;
  switch (policy) {
    case core::RequantPolicy::exact:
      return nearest_even(acc * m.multiplier, power_of_two(m.shift));
    case core::RequantPolicy::shift:
      return m.shift < 0 ? acc * power_of_two(-m.shift) : nearest_even(acc, power_of_two(m.shift));
    case core::RequantPolicy::gemmlowp:
      break;
  }
  const Wide shifted = saturate_int32(acc * power_of_two(std::max(m.shift, 0)));
  const Wide product = saturate_int32(nearest_up(shifted * m.multiplier, power_of_two(31)));
  return nearest_away_from_zero(product, power_of_two(std::max(-m.shift, 0)));
}

}  // namespace qstep::oracle
