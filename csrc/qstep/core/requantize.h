#pragma once
// Requantization: from an int32 accumulator to the codes of the next grid, in integers. Three policies:
//
//   exact     round_half_even(acc * multiplier / 2^shift): a signed 24-bit mantissa (so a float32, exactly), one rounding
//   gemmlowp  IAO as TFLite computes it: doubling high multiply, then rounding shift (two roundings, bit-exact to TFLite)
//   shift     round_half_even(acc / 2^shift), no multiplier (F8Net); a negative shift goes left
//
// Each returns the code before the zero point and the clamp, as int64 where it may exceed int32. Derivations: docs/numerics.md.
#include <cmath>
#include <cstdint>
#include <limits>

#include "qstep/core/error.h"
#include "qstep/core/rounding.h"

namespace qstep::core {

enum class RequantPolicy : uint8_t { exact, gemmlowp, shift };

/// A real factor as integers. exact: multiplier in +-[2^23, 2^24) or 0, shift in [0, 62].
/// gemmlowp: multiplier in +-[2^30, 2^31) or 0, shift in [-31, 30], positive shifts left. shift: multiplier 1, shift in [-31, 62].
struct Multiplier {
  int32_t multiplier = 0;
  int32_t shift = 0;

  friend bool operator==(const Multiplier&, const Multiplier&) = default;
};

/// Biases stay below this, an eighth of the int32 range. A channel that would need more (batch norm's gamma near 0) counts in coarser
/// units.
inline constexpr double largest_bias = 0x1p28;

/// True for 2^k, k any integer: what the shift policy takes as a scale or a factor.
inline bool is_power_of_two(double x) {
  int exponent = 0;
  return std::isfinite(x) && std::frexp(x, &exponent) == 0.5;
}

/// `factor` rounded half to even to 24 bits. Factors too small to move any int32 accumulator off 0 become 0.
/// Throws unless factor is finite and |factor| < 2^24.
inline Multiplier exact_multiplier(double factor) {
  require(std::isfinite(factor) && std::fabs(factor) < 0x1p24,
          "requantize: factor must be finite and below 2^24, got {}", factor);
  int exponent = 0;
  const double mantissa = std::frexp(factor, &exponent);  // |mantissa| in [0.5, 1)
  auto multiplier = static_cast<int32_t>(round_half_even(std::ldexp(mantissa, 24)));
  int shift = 24 - exponent;
  if (multiplier == (1 << 24) || multiplier == -(1 << 24)) {  // rounded up to the next power of two
    multiplier /= 2;
    shift -= 1;
  }
  require(multiplier == 0 || shift >= 0, "requantize: factor must be below 2^24, got {}", factor);
  if (multiplier == 0 || shift > 62) return {0, 0};
  return {multiplier, shift};
}

QSTEP_HOST_DEVICE int64_t requantize_exact(int32_t accumulator, Multiplier m) {
  return shift_right_half_even(int64_t{accumulator} * m.multiplier, m.shift);
}

/// TFLite's QuantizeMultiplier: 31-bit mantissa rounded half away from zero; factors below 2^-32 become 0.
/// Throws unless factor is finite and |factor| < 2^30.
inline Multiplier gemmlowp_multiplier(double factor) {
  require(std::isfinite(factor) && std::fabs(factor) < 0x1p30,
          "requantize: gemmlowp factor must be finite and below 2^30, got {}", factor);
  int exponent = 0;
  const double mantissa = std::frexp(factor, &exponent);
  auto multiplier = static_cast<int64_t>(std::round(std::ldexp(mantissa, 31)));
  if (multiplier == (int64_t{1} << 31) || multiplier == -(int64_t{1} << 31)) {
    multiplier /= 2;
    exponent += 1;
  }
  if (multiplier == 0 || exponent < -31) return {0, 0};
  return {static_cast<int32_t>(multiplier), exponent};
}

/// The left shift saturates instead of wrapping, so that no accumulator is silently wrong.
QSTEP_HOST_DEVICE int64_t requantize_gemmlowp(int32_t accumulator, Multiplier m) {
  const int left = m.shift > 0 ? m.shift : 0;
  const int right = m.shift > 0 ? 0 : -m.shift;
  const int64_t shifted = int64_t{accumulator} * (int64_t{1} << left);
  const int64_t low = INT32_MIN;
  const int64_t high = INT32_MAX;
  const auto saturated = static_cast<int32_t>(shifted < low ? low : (shifted > high ? high : shifted));
  return rounding_divide_by_power_of_two(saturating_rounding_doubling_high_mul(saturated, m.multiplier), right);
}

QSTEP_HOST_DEVICE int64_t requantize_shift(int32_t accumulator, Multiplier m) {
  return shift_half_even(accumulator, m.shift);
}

QSTEP_HOST_DEVICE int64_t requantize(int32_t accumulator, Multiplier m, RequantPolicy policy) {
  switch (policy) {
    case RequantPolicy::gemmlowp:
      return requantize_gemmlowp(accumulator, m);
    case RequantPolicy::shift:
      return requantize_shift(accumulator, m);
    case RequantPolicy::exact:
      break;
  }
  return requantize_exact(accumulator, m);
}

}  // namespace qstep::core
