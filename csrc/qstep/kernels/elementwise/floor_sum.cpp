#include "qstep/kernels/elementwise/floor_sum.h"

#include <algorithm>
#include <bit>

#include "qstep/core/grid.h"
#include "qstep/core/rounding.h"

namespace qstep::kernels {
namespace {

/// t of two codes.
int64_t sum_of(const BilinearProblem& p, int64_t a, int64_t b) { return p.left * a + p.right * b + folded_constant(p); }
int64_t half_step(const BilinearProblem& p) { return p.shift == 0 ? 0 : int64_t{1} << (p.shift - 1); }
int64_t constant_and_half(const BilinearProblem& p) { return folded_constant(p) + half_step(p); }
int split_bit(const BilinearProblem& p) { return std::min(p.shift, SumParts::most_bits); }

/// body(code of a, code of b) for all pairs of them, while it returns true; false where it did not for one.
template <class Body>
bool all_codes(const BilinearProblem& p, Body body) {
  for (int32_t a = 0; a <= p.quant_max_a; ++a) {
    for (int32_t b = 0; b <= p.quant_max_b; ++b) {
      if (!body(a, b)) return false;
    }
  }
  return true;
}

int32_t code(const BilinearProblem& p, int64_t steps) {
  return static_cast<int32_t>(core::clamp<int64_t>(steps + p.zero_point, p.clamp_min, p.clamp_max));
}

/// What is cut off the factors so that int16 holds them.
int excess_bits(const BilinearProblem& p) {
  const auto bits = [](int64_t x) { return static_cast<int>(std::bit_width(static_cast<uint64_t>(x < 0 ? -x : x))); };
  return std::clamp(std::max(bits(p.left), bits(p.right)) - 14, 0, p.shift);
}

int16_t low_half(int32_t factors) { return static_cast<int16_t>(factors & 0xFFFF); }
int16_t high_half(int32_t factors) { return static_cast<int16_t>(factors >> 16); }

}  // namespace

FloorSum::FloorSum(const BilinearProblem& p)
    : SumParts(p, split_bit(p), constant_and_half(p)), shift(p.shift - split_bit(p)) {}

bool FloorSum::supports(const BilinearProblem& p) {
  if (p.product != 0 || !SumParts::fit(p, split_bit(p), constant_and_half(p), 0x1p30)) return false;
  const int64_t fraction = (int64_t{1} << p.shift) - 1;
  return p.shift == 0 ||
         all_codes(p, [&](int32_t a, int32_t b) { return (sum_of(p, a, b) & fraction) != half_step(p); });
}

NarrowSum::NarrowSum(const BilinearProblem& p) : shift(p.shift - excess_bits(p)) {
  const int excess = excess_bits(p);
  const int64_t left = core::shift_right_half_even(p.left, excess);
  const int64_t right = core::shift_right_half_even(p.right, excess);
  // What rounded factors change lies between 0 and these for each operand: the constant takes half of it back.
  const int64_t change = ((left << excess) - p.left) * p.quant_max_a + ((right << excess) - p.right) * p.quant_max_b;
  factors = SumParts::pair(left, right);
  constant = static_cast<int32_t>((constant_and_half(p) - change / 2) >> excess);
}

bool NarrowSum::supports(const BilinearProblem& p) {
  constexpr int32_t most_pairs = 64 * 64;
  if (p.product != 0 || (p.quant_max_a + 1) * (p.quant_max_b + 1) > most_pairs) return false;
  if (!SumParts::fit(p, excess_bits(p), constant_and_half(p), 0x1p30)) return false;
  const NarrowSum sum(p);
  return all_codes(p, [&](int32_t a, int32_t b) {
    const int64_t narrow = int64_t{low_half(sum.factors)} * a + int64_t{high_half(sum.factors)} * b + sum.constant;
    return code(p, narrow >> sum.shift) == code(p, core::shift_right_half_even(sum_of(p, a, b), p.shift));
  });
}

}  // namespace qstep::kernels
