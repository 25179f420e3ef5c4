#pragma once
// AVX2 arithmetic of the blocked matrix product (panel_gemm.h) for weights of 2 bits and codes of up to 4.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/gemm/panel_gemm.h"

namespace qstep::kernels::avx2 {

/// Products by table. A pair of neighbouring codes (a, b) has a table of 16 bytes, an entry for each pair of weights:
///
///   table[a][b][index] = a * v + b * w + quant_max * (max(-v, 0) + max(-w, 0))       in [0, quant_max * (|v| + |w|)]
///
/// vpshufb looks up 32 columns at once, which is 64 products, and the entries are added up in bytes. A sum over any depth
/// is at most quant_max * sum|w|: a window is a run of steps for which that is below 256, and at its end sums are widened
/// to 16 bits. What makes entries positive does not depend on codes and is taken off at the end.
class Shuffle8 {
 public:
  using Code = std::byte;  // of a pair: where its table lies, in 2 bytes
  static constexpr int tile_rows = 6;
  static constexpr int tile_panels(int) { return 4; }
  static constexpr int depth_step = 8;
  static constexpr int depth_run = depth_step;

  /// True where this is possible and faster than Maddubs16.
  static bool supports(const GemmProblem& problem) { return supports(problem, 1); }
  static bool supports(const GemmProblem& problem, int64_t groups);

  /// Its time in that of Madd16; infinite where it is not possible.
  static double relative_cost(const GemmProblem& problem, int64_t groups);

  Shuffle8(const GemmProblem& problem, int64_t groups);
  size_t bytes() const;

  void multiply(int64_t panel, int panels, const TileInput<std::byte>& input, const int32_t* bias, int32_t* tile) const;
  /// The last one of an odd number of codes is paired with 0.
  static void stage(const uint8_t* input, int64_t count, std::byte* output);
  static void stage_copies(uint8_t code, int64_t count, std::byte* output);
  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    epilogue.store_avx2(tile, output);
  }

  static bool finishes_in_registers(const Epilogue& epilogue) { return epilogue.float_factors() != nullptr; }
  void multiply_and_finish(int64_t panel, int panels, const TileInput<std::byte>& input, const int32_t* bias,
                           const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) const;

 private:
  template <class Finish>
  void multiply(int64_t panel, int panels, const TileInput<std::byte>& input, const int32_t* bias, Finish finish) const;

  size_t block(int64_t panel) const;
  /// Vectors of columns in the block of a panel.
  int64_t block_vectors(int64_t panel) const;
  /// Where the indices of a panel's columns lie for pair number p.
  int64_t vector_offset(int64_t panel, int64_t p) const;

  int64_t steps_;
  int64_t group_panels_;
  AlignedVector<uint8_t> tables_;              // [largest code + 1][16][16]
  AlignedVector<uint8_t> weights_;             // indices: [groups][blocks of up to 4 panels][pairs][columns]
  AlignedVector<int32_t> offsets_;             // what makes entries positive: [panels][tile_columns]
  std::vector<std::vector<int32_t>> windows_;  // lengths in steps: [groups][blocks]
};

}  // namespace qstep::kernels::avx2
