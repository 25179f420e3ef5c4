#pragma once
// Rounding. One rule, half to even, wherever qstep defines a value; gemmlowp's two rules only where parity with
// TFLite is asked for. Derivations: docs/numerics.md.
#include <cmath>
#include <cstdint>

#include "qstep/core/platform.h"

namespace qstep::core {

/// The integer nearest to x, ties to even. NaN and infinities pass through. Assumes the default rounding mode.
QSTEP_HOST_DEVICE float round_half_even(float x) { return rintf(x); }
QSTEP_HOST_DEVICE double round_half_even(double x) { return rint(x); }

/// round_half_even(value / 2^shift) in integers. shift in [0, 62].
QSTEP_HOST_DEVICE int64_t shift_right_half_even(int64_t value, int shift) {
  if (shift == 0) return value;
  const int64_t floor = value >> shift;
  const int64_t remainder = value - (floor << shift);  // 0 <= remainder < 2^shift
  const int64_t half = int64_t{1} << (shift - 1);
  const bool up = remainder > half || (remainder == half && (floor & 1) != 0);
  return floor + (up ? 1 : 0);
}

/// round_half_even(value / 2^shift) for a shift in [-62, 62]: a negative one goes left, exactly where the result fits.
QSTEP_HOST_DEVICE int64_t shift_half_even(int64_t value, int shift) {
  return shift >= 0 ? shift_right_half_even(value, shift) : value << -shift;
}

/// round_half_even(numerator / denominator) in integers. denominator in [1, 2^62], numerator != INT64_MIN.
QSTEP_HOST_DEVICE int64_t divide_half_even(int64_t numerator, int64_t denominator) {
  int64_t floor = numerator / denominator;
  int64_t remainder = numerator % denominator;
  if (remainder < 0) {
    remainder += denominator;
    floor -= 1;
  }
  const int64_t rest = denominator - remainder;  // compares 2 * remainder with denominator without overflow
  const bool up = remainder > rest || (remainder == rest && (floor & 1) != 0);
  return floor + (up ? 1 : 0);
}

/// gemmlowp's SaturatingRoundingDoublingHighMul: the high half of 2ab, ties up; saturates at INT32_MIN * INT32_MIN.
QSTEP_HOST_DEVICE int32_t saturating_rounding_doubling_high_mul(int32_t a, int32_t b) {
  if (a == INT32_MIN && b == INT32_MIN) return INT32_MAX;
  const int64_t product = int64_t{a} * b;
  const int64_t nudge = product >= 0 ? (int64_t{1} << 30) : 1 - (int64_t{1} << 30);
  return static_cast<int32_t>((product + nudge) / (int64_t{1} << 31));  // truncating division is part of the rule
}

/// gemmlowp's RoundingDivideByPOT: x / 2^exponent, ties away from zero. exponent in [0, 31].
QSTEP_HOST_DEVICE int32_t rounding_divide_by_power_of_two(int32_t x, int exponent) {
  const int64_t mask = (int64_t{1} << exponent) - 1;
  const int64_t remainder = x & mask;
  const int64_t threshold = (mask >> 1) + (x < 0 ? 1 : 0);
  return static_cast<int32_t>((int64_t{x} >> exponent) + (remainder > threshold ? 1 : 0));
}

}  // namespace qstep::core
