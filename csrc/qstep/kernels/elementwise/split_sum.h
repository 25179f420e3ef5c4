#pragma once
// An addition as two sums in int32 and one fused rounding (docs/numerics.md). t is cut at bit k:
//
//   t = high * 2^k + low, 0 <= low < 2^k, from
//   low  = left_low * a + right_low * b + constant_low                                         below 2^24
//   high = left_high * a + right_high * b + constant_high + (low >> k)
//
// with left = left_high * 2^k + left_low, and right and the constant (zero codes folded into it) likewise: each sum is
// one vpmaddwd of codes. What low leaves below bit k matters to the rounding only by being 0 or not, since at least two
// bits of high lie below the step, so it is or-ed into the lowest of them; high then is a float.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "qstep/kernels/elementwise/bilinear.h"

namespace qstep::kernels {

struct SplitSum {
  int bits;             ///< k
  int32_t low_factors;  ///< int16 of a and, in the upper half, of b
  int32_t high_factors;
  int32_t low_constant;
  int32_t high_constant;
  float unit;  ///< 2^(k - shift)

  explicit SplitSum(const BilinearProblem& p)
      : bits(split_bit(p)),
        low_factors(pair(low_part(p.left, bits), low_part(p.right, bits))),
        high_factors(pair(p.left >> bits, p.right >> bits)),
        low_constant(static_cast<int32_t>(low_part(folded_constant(p), bits))),
        high_constant(static_cast<int32_t>(folded_constant(p) >> bits)),
        unit(std::ldexp(1.0F, bits - p.shift)) {}

  static bool supports(const BilinearProblem& p) {
    if (p.product != 0 || p.shift < 2) return false;
    const auto magnitude = [](int64_t x) { return std::fabs(static_cast<double>(x)); };
    const double largest = 255 * (magnitude(p.left) + magnitude(p.right)) + magnitude(folded_constant(p));
    const auto fits_int16 = [&](int64_t x) { return INT16_MIN <= x >> split_bit(p) && x >> split_bit(p) <= INT16_MAX; };
    return fits_int16(p.left) && fits_int16(p.right) && std::ldexp(largest, -split_bit(p)) < 0x1p23;
  }

 private:
  static int split_bit(const BilinearProblem& p) { return std::min(p.shift - 2, 15); }
  static int64_t low_part(int64_t x, int bits) { return x & ((int64_t{1} << bits) - 1); }
  static int32_t pair(int64_t left, int64_t right) {
    return static_cast<int32_t>((right & 0xFFFF) << 16 | (left & 0xFFFF));
  }
  static int64_t folded_constant(const BilinearProblem& p) {
    return p.constant - p.left * p.zero_code_a - p.right * p.zero_code_b;
  }
};

}  // namespace qstep::kernels
