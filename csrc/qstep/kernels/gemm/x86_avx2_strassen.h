#pragma once
// Strassen's matrix product, in Winograd's form with the fewest additions, as an AVX2 arithmetic (panel_gemm.h): seven
// products of half the rows, depth and columns instead of eight, with vpmaddwd on int16. Integers make it exact
// (docs/numerics.md, "Strassen").
//
// Of a tile's rows A, A1. are every other one from the first and A2. those between; of two neighbouring panels, B.1 is the
// left and B.2 the right one; A.1, A.2 and B1., B2. are the first and the second half of the depth.
//
//   S1 = A21 + A22   S2 = S1 - A11   S3 = A11 - A21   S4 = A12 - S2    once for all panels
//   T1 = B12 - B11   T2 = B22 - T1   T3 = B22 - B12   T4 = B21 - T2    when weights are packed
//
//   P = A11 B11   U = P + S2 T2   V = U + S3 T3   W = S1 T1
//   C11 = P + A12 B21   C12 = U + W + S4 B22   C21 = V + A22 T4   C22 = V + W
#include <cstddef>
#include <cstdint>

#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/gemm/panel_gemm.h"

namespace qstep::kernels::avx2 {

class Strassen16 {
 public:
  using Code = int16_t;
  static constexpr int tile_rows = 12;
  static constexpr int tile_panels(int) { return 2; }
  static constexpr int depth_step = 4;
  static constexpr int depth_run = depth_step;
  static constexpr int64_t staged_bytes = 512 * 1024;  // or weights of four bytes are read too often

  /// True where sums of weights fit int16 and the depth is 32 or more. Takes ungrouped matrices.
  static bool supports(const GemmProblem& problem);
  /// True where it is faster than the other AVX2 arithmetics.
  static bool suits(const GemmProblem& problem);

  Strassen16(const GemmProblem& problem, int64_t groups);
  size_t bytes() const { return (weights_.size() + sums_.size()) * sizeof(int16_t); }

  void multiply(int64_t panel, int panels, const TileInput<int16_t>& input, const int32_t* bias, int32_t* tile) const;
  static void stage(const uint8_t* input, int64_t count, int16_t* output);
  /// S1 and S2 lie behind a pair's first row, S3 and S4 behind its second one. `length` is 32 or more.
  static void combine_rows(int16_t* rows, int64_t count, int64_t length);
  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    epilogue.store_avx2(tile, output);
  }

  static bool finishes_in_registers(const Epilogue& epilogue) { return epilogue.float_factors() != nullptr; }
  void multiply_and_finish(int64_t panel, int panels, const TileInput<int16_t>& input, const int32_t* bias,
                           const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) const;

 private:
  template <class Finish>
  void multiply(int64_t panel, int panels, const TileInput<int16_t>& input, const int32_t* bias, Finish&& finish) const;

  int64_t steps_;                   // of two values of depth, in half of it
  AlignedVector<int16_t> weights_;  // B: [panels][2][steps][tile_columns][2]
  AlignedVector<int16_t> sums_;     // T2, T3, T4, T1: [pairs of panels][4][steps][tile_columns][2]
};

}  // namespace qstep::kernels::avx2
