#pragma once
// Additions that round by a shift alone (docs/numerics.md): adding half a step and cutting off rounds as defined unless
// t lies halfway between two steps, and of the codes that there are, no two may make it do so.
#include <cstdint>

#include "qstep/kernels/elementwise/split_sum.h"

namespace qstep::kernels {

/// t plus half a step in two sums of int32, as in SplitSum: steps = (high + (low >> bits)) >> shift.
struct FloorSum : SumParts {
  int shift;

  explicit FloorSum(const BilinearProblem& p);
  static bool supports(const BilinearProblem& p);
};

/// In one sum of int32, with rounded factors of int16: steps = (left * a + right * b + constant) >> shift. Codes of few
/// bits make so few sums that all of them may lie far enough from the next step; each is looked at.
struct NarrowSum {
  int32_t factors;  ///< int16 of a and, in the upper half, of b
  int32_t constant;
  int shift;

  explicit NarrowSum(const BilinearProblem& p);
  static bool supports(const BilinearProblem& p);
};

}  // namespace qstep::kernels
