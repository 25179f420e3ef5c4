#pragma once
// AVX2 arithmetics of the blocked matrix product (panel_gemm.h). Both give the int32 accumulator with no error at all.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/epilogue/epilogue.h"
#include "qstep/kernels/gemm/gemm.h"

namespace qstep::kernels::avx2 {

/// vpmaddwd on int16 inputs and weights into int32: exact for every problem.
class Madd16 {
 public:
  using Code = int16_t;
  static constexpr int tile_rows = 6;
  static constexpr int depth_step = 2;

  static bool supports(const GemmProblem&) { return true; }

  Madd16(const GemmProblem& problem, int64_t groups);
  size_t bytes() const { return weights_.size() * sizeof(int16_t); }

  void multiply(int64_t panel, int rows, const int16_t* input, int64_t stride, const int32_t* bias,
                int32_t* tile) const;
  static void stage(const uint8_t* input, int64_t count, int16_t* output);
  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    epilogue.store_avx2(tile, output);
  }

 private:
  int64_t steps_;                   // of two values of depth
  AlignedVector<int16_t> weights_;  // [panels][steps][tile_columns][2]
};

/// vpmaddubsw on the codes as they are, summed in int16 over windows of steps and widened to int32 at the end of each.
///
/// The instruction adds two products of an unsigned and a signed byte, and saturates. With inputs in [0, quant_max], a
/// 16-bit lane cannot leave its range while, over the window's weights in that lane,
///   quant_max * (sum of the positive ones) <= 32767 and quant_max * (sum of the negative ones' magnitudes) <= 32768.
/// Packing cuts each panel into the longest windows for which this holds: the real weights decide, not their bit width.
class Maddubs16 {
 public:
  using Code = uint8_t;
  static constexpr int tile_rows = 6;
  static constexpr int depth_step = 4;

  /// True where weights fit int8 and windows are long enough to beat Madd16.
  static bool supports(const GemmProblem& problem);

  Maddubs16(const GemmProblem& problem, int64_t groups);
  size_t bytes() const { return weights_.size() + windows_.size() * sizeof(int32_t); }

  void multiply(int64_t panel, int rows, const uint8_t* input, int64_t stride, const int32_t* bias,
                int32_t* tile) const;
  static void stage(const uint8_t* input, int64_t count, uint8_t* output);
  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    epilogue.store_avx2(tile, output);
  }

 private:
  int64_t steps_;                     // of four values of depth
  AlignedVector<int8_t> weights_;     // [panels][steps][tile_columns][4]
  std::vector<int32_t> windows_;      // lengths in steps, panel after panel
  std::vector<size_t> first_window_;  // [panels + 1], into windows_
};

}  // namespace qstep::kernels::avx2
