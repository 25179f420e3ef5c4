#pragma once
// Weights of 2 or 4 bits, several steps of them in each byte, for products that take the time of reading them.
#include <cstddef>
#include <cstdint>

#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/gemm/gemm.h"
#include "qstep/kernels/gemm/int16_windows.h"

namespace qstep::kernels {

/// weight = offset + u, u in [0, 2^bits): the sum of a row's codes, times the offset, is missing in its sums of products.
template <int bits>
struct PackedBits {
  static_assert(bits == 2 || bits == 4);
  static constexpr int group_steps = 8 / bits;  ///< steps that share bytes, the first one in the lowest bits
  static constexpr int group_depth = group_steps * step_depth;

  /// True where the weights span no more than 2^bits values.
  static bool supports(const GemmProblem& problem);

  PackedBits(const GemmProblem& problem, int64_t groups_of_columns);

  const uint8_t* panel(int64_t number) const { return weights.data() + number * groups * step_weights; }

  int32_t offset;
  int64_t groups;                  ///< of steps
  AlignedVector<uint8_t> weights;  ///< [panels][groups][tile_columns][step_depth], u
};

}  // namespace qstep::kernels
