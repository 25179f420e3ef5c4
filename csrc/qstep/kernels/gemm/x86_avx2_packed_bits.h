#pragma once
// AVX2 arithmetics of the blocked matrix product (panel_gemm.h) for few rows of input, which take the time of reading the
// weights.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/gemm/int16_windows.h"
#include "qstep/kernels/gemm/packed_bits.h"
#include "qstep/kernels/gemm/panel_gemm.h"
#include "qstep/kernels/gemm/x86_avx2.h"

namespace qstep::kernels::avx2 {

/// What the arithmetics here share: codes around 0, c = code - 128. 128 * (sum of a column's weights) is
/// added to its accumulators.
struct CentredCodes {
  using Code = int8_t;

  static void stage(const uint8_t* input, int64_t count, int8_t* output);
  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    epilogue.store_avx2(tile, output);
  }
};

/// vpmaddubsw with several steps' weights in each byte, summed in int16 over windows of constant length.
///
/// offset * (sum of a row's c) is added to its accumulators. A lane of int16 receives two products of each step, at most
/// 128 * (2^bits - 1) in magnitude, and does not leave its range for 127 / (2^bits - 1) steps.
template <int bits>
class PackedBits16 : public CentredCodes {
  using Packed = PackedBits<bits>;

 public:
  static constexpr int tile_rows = 2;
  static constexpr int tile_panels(int rows) { return rows == 1 ? 2 : 1; }
  static constexpr int depth_step = Packed::group_depth;
  static constexpr int window = bits == 4 ? 4 : 8;  ///< in groups of steps
  static constexpr int depth_run = window * depth_step;
  static_assert(window * Packed::group_steps <= 127 / ((1 << bits) - 1));

  static bool supports(const GemmProblem& problem) { return Packed::supports(problem); }

  PackedBits16(const GemmProblem& problem, int64_t groups);
  size_t bytes() const { return packed_.weights.size() + sums_.size() * sizeof(int32_t); }

  void row_parts(std::span<const int8_t* const> rows, const int32_t* steps, int32_t* parts) const;
  void multiply(int64_t panel, int panels, const TileInput<int8_t>& input, const int32_t* bias, int32_t* tile) const;

 private:
  Packed packed_;
  AlignedVector<int32_t> sums_;  // 128 * (sum of a column's weights); [panels][tile_columns]
};

/// vpmaddubsw with |c| times the weight with the sign of c. Exact for every problem in 8 bits.
///
/// Two products of magnitudes up to 128 and 127 do not leave int16, which two of a code and a weight may. A weight of -128
/// is multiplied as -127, and c subtracted once more.
class CentredBytes : public CentredCodes {
 public:
  static constexpr int tile_rows = 4;
  static constexpr int tile_panels(int) { return 1; }
  static constexpr int depth_step = 16;
  static constexpr int depth_run = depth_step;

  /// True where weights fit int8.
  static bool supports(const GemmProblem& problem);
  /// True where few weights are -128, and Maddubs16 would take longer, because its sums in int16 are short or in excess.
  static bool suits(const GemmProblem& problem);

  CentredBytes(const GemmProblem& problem, int64_t groups);
  size_t bytes() const { return weights_.size() + sums_.size() * sizeof(int32_t) + cut_weights() * sizeof(CutWeight); }

  void multiply(int64_t panel, int panels, const TileInput<int8_t>& input, const int32_t* bias, int32_t* tile) const;

 private:
  /// A weight of -128.
  struct CutWeight {
    int32_t k;
    int32_t column;  ///< of its panel
  };

  size_t cut_weights() const;

  int64_t steps_;
  AlignedVector<int8_t> weights_;             // [panels][steps][depth_step / step_depth][tile_columns][step_depth]
  AlignedVector<int32_t> sums_;               // 128 * (sum of a column's weights); [panels][tile_columns]
  std::vector<std::vector<CutWeight>> cuts_;  // [panels]
};

}  // namespace qstep::kernels::avx2
