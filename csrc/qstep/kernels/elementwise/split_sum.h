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

/// t without its zero codes: left * a + right * b + this, of codes.
inline int64_t folded_constant(const BilinearProblem& p) {
  return p.constant - p.left * p.zero_code_a - p.right * p.zero_code_b;
}

/// The factors and constants of the two sums.
struct SumParts {
  static constexpr int most_bits = 15;  // low factors are int16, too

  int bits;             ///< k
  int32_t low_factors;  ///< int16 of a and, in the upper half, of b
  int32_t high_factors;
  int32_t low_constant;
  int32_t high_constant;

  SumParts(const BilinearProblem& p, int k, int64_t constant)
      : bits(k),
        low_factors(pair(low_part(p.left, k), low_part(p.right, k))),
        high_factors(pair(p.left >> k, p.right >> k)),
        low_constant(static_cast<int32_t>(low_part(constant, k))),
        high_constant(static_cast<int32_t>(constant >> k)) {}

  /// True where the high factors fit int16 and no |high| reaches `limit`, whatever the codes.
  static bool fit(const BilinearProblem& p, int k, int64_t constant, double limit) {
    const auto magnitude = [](int64_t x) { return std::fabs(static_cast<double>(x)); };
    const double largest = 255 * (magnitude(p.left) + magnitude(p.right)) + magnitude(constant);
    const auto fits_int16 = [&](int64_t x) { return INT16_MIN <= x >> k && x >> k <= INT16_MAX; };
    return fits_int16(p.left) && fits_int16(p.right) && std::ldexp(largest, -k) < limit;
  }

  static int32_t pair(int64_t left, int64_t right) {
    return static_cast<int32_t>((right & 0xFFFF) << 16 | (left & 0xFFFF));
  }

 private:
  static int64_t low_part(int64_t x, int bits) { return x & ((int64_t{1} << bits) - 1); }
};

struct SplitSum : SumParts {
  float unit;  ///< 2^(k - shift)

  explicit SplitSum(const BilinearProblem& p)
      : SumParts(p, split_bit(p), folded_constant(p)), unit(std::ldexp(1.0F, bits - p.shift)) {}

  static bool supports(const BilinearProblem& p) {
    return p.product == 0 && p.shift >= 2 && fit(p, split_bit(p), folded_constant(p), 0x1p23);
  }

 private:
  static int split_bit(const BilinearProblem& p) { return std::min(p.shift - 2, most_bits); }
};

}  // namespace qstep::kernels
