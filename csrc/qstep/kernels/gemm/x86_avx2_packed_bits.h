#pragma once
// AVX2 arithmetics of the blocked matrix product (panel_gemm.h) for few rows of input, which take the time of reading the
// weights.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/gemm/int16_windows.h"
#include "qstep/kernels/gemm/panel_gemm.h"
#include "qstep/kernels/gemm/x86_avx2.h"

namespace qstep::kernels::avx2 {

/// Maddubs16 with several steps' weights in each byte.
///
/// Stored are weight - offset, `bits` bits from 0; offset * (sum of a row's codes) is added to its accumulators.
template <int bits>
class PackedBits16 {
  static_assert(bits == 2 || bits == 4);

 public:
  using Code = uint8_t;
  static constexpr int tile_rows = 4;
  static constexpr int tile_panels(int) { return 1; }
  static constexpr int group_steps = 8 / bits;  ///< steps whose weights share bytes
  static constexpr int depth_step = group_steps * step_depth;
  static constexpr int depth_run = 32;

  /// True where the weights span no more than 2^bits values.
  static bool supports(const GemmProblem& problem);

  PackedBits16(const GemmProblem& problem, int64_t groups);
  size_t bytes() const { return weights_.size() + windows_.size() * sizeof(int32_t); }

  void multiply(int64_t panel, int panels, const TileInput<uint8_t>& input, const int32_t* bias, int32_t* tile) const;
  static void stage(const uint8_t* input, int64_t count, uint8_t* output);
  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    epilogue.store_avx2(tile, output);
  }

 private:
  int32_t offset_;
  int64_t groups_;                  // of steps
  AlignedVector<uint8_t> weights_;  // [panels][groups_][tile_columns][step_depth]
  std::vector<int32_t> windows_;    // lengths in groups of steps, for each panel
};

/// vpmaddwd on bytes of weights, those of two columns in each lane of 16 bits: exact for every problem in 8 bits.
///
/// A lane is 256 * right + left + 128, left + 128 in [0, 255]. An arithmetic shift leaves right, and
/// sum(code * lane) - 256 * sum(code * right) - 128 * sum(code) is the sum for left, in arithmetic modulo 2^32.
class PackedBytes {
 public:
  using Code = int16_t;
  static constexpr int tile_rows = 4;
  static constexpr int tile_panels(int rows) { return rows <= 2 ? 2 : 1; }
  static constexpr int depth_step = 16;
  static constexpr int depth_run = depth_step;

  /// True where weights fit int8 and Maddubs16 would take longer, because its sums in int16 are short or in excess.
  static bool supports(const GemmProblem& problem);

  PackedBytes(const GemmProblem& problem, int64_t groups);
  size_t bytes() const { return lanes_.size() * sizeof(int16_t); }

  void multiply(int64_t panel, int panels, const TileInput<int16_t>& input, const int32_t* bias, int32_t* tile) const;
  static void stage(const uint8_t* input, int64_t count, int16_t* output) { Madd16::stage(input, count, output); }
  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    epilogue.store_avx2(tile, output);
  }

 private:
  static constexpr int pairs = depth_step / 2;

  int64_t steps_;
  AlignedVector<int16_t> lanes_;  // [panels][steps][pairs][half_columns][2]
};

}  // namespace qstep::kernels::avx2
