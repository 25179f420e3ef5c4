#pragma once
// From int32 accumulators to the codes of the next grid:
//
//   code = clamp(requantize(acc, multiplier[c], policy) + zero_point, clamp_min, clamp_max)
//
// with requantize as core/requantize.h defines it.
#include <cstdint>
#include <span>

#include "qstep/core/requantize.h"

namespace qstep::kernels {

struct Requantization {
  core::RequantPolicy policy = core::RequantPolicy::exact;
  std::span<const core::Multiplier> multipliers;  ///< one, or one per channel; empty: the output is the accumulators
  int32_t zero_point = 0;
  int32_t clamp_min = 0;    ///< 0 <= clamp_min <= clamp_max <= 255
  int32_t clamp_max = 255;
};

}  // namespace qstep::kernels
