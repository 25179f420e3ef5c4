#pragma once
// AVX2 arithmetics of the blocked matrix product (panel_gemm.h). Both give the int32 accumulator with no error at all.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/gemm/int16_windows.h"
#include "qstep/kernels/gemm/panel_gemm.h"

namespace qstep::kernels::avx2 {

/// vpmaddwd on int16 inputs and weights into int32: exact for every problem.
class Madd16 {
 public:
  using Code = int16_t;
  static constexpr int tile_rows = 6;
  static constexpr int tile_panels(int) { return 1; }
  static constexpr int depth_step = 2;
  static constexpr int depth_run = depth_step;

  static bool supports(const GemmProblem&) { return true; }

  Madd16(const GemmProblem& problem, int64_t groups);
  size_t bytes() const { return weights_.size() * sizeof(int16_t); }

  void multiply(int64_t panel, int panels, const TileInput<int16_t>& input, const int32_t* bias, int32_t* tile) const;
  static void stage(const uint8_t* input, int64_t count, int16_t* output);
  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    epilogue.store_avx2(tile, output);
  }

  static constexpr bool takes_tiles = true;
  static bool finishes_in_registers(const Epilogue& epilogue) { return epilogue.float_factors() != nullptr; }
  void multiply_and_finish(int64_t panel, int panels, const TileInput<int16_t>& input, const int32_t* bias,
                           const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) const;

 private:
  template <class Finish>
  void multiply(int64_t panel, int panels, const TileInput<int16_t>& input, const int32_t* bias, Finish&& finish) const;

  int64_t steps_;                   // of two values of depth
  AlignedVector<int16_t> weights_;  // [panels][steps][tile_columns][2]
};

/// vpmaddubsw on the codes as they are, summed in int16 over windows of steps and widened to int32 at the end of each.
///
/// The instruction adds two products of an unsigned and a signed byte, and saturates; int16_windows.h plans each panel
/// so that nothing does.
class Maddubs16 {
 public:
  using Code = uint8_t;
  static constexpr int tile_rows = 6;
  static constexpr int tile_panels(int) { return 1; }
  static constexpr int depth_step = step_depth;
  static constexpr int depth_run = any_window * step_depth;  // of the longest window of constant length

  /// True where weights fit int8.
  static bool supports(const GemmProblem& problem);
  /// True where sums in int16 beat Madd16.
  static bool suits(const GemmProblem& problem) { return relative_cost(problem) < 1; }

  /// Its time in that of Madd16, judged by a few panels; infinite where weights do not fit int8.
  static double relative_cost(const GemmProblem& problem, int longest_window = any_window);

  Maddubs16(const GemmProblem& problem, int64_t groups) : Maddubs16(problem, groups, any_window) {}
  size_t bytes() const;

  void multiply(int64_t panel, int panels, const TileInput<uint8_t>& input, const int32_t* bias, int32_t* tile) const;
  static void stage(const uint8_t* input, int64_t count, uint8_t* output);
  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    epilogue.store_avx2(tile, output);
  }

  static constexpr bool takes_tiles = true;
  static bool finishes_in_registers(const Epilogue& epilogue) { return epilogue.float_factors() != nullptr; }
  void multiply_and_finish(int64_t panel, int panels, const TileInput<uint8_t>& input, const int32_t* bias,
                           const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) const;

 protected:
  Maddubs16(const GemmProblem& problem, int64_t groups, int longest_window);

 private:
  template <class Finish>
  void multiply(int64_t panel, int panels, const TileInput<uint8_t>& input, const int32_t* bias, Finish&& finish) const;

  int64_t steps_;
  AlignedVector<int8_t> weights_;    // [panels][steps][tile_columns][step_depth]
  std::vector<Int16Windows> plans_;  // [panels]
};

/// The same for depth that lies in short runs: windows of constant length have one step.
class Maddubs16ByStep : public Maddubs16 {
 public:
  static constexpr int depth_run = step_depth;

  static bool suits(const GemmProblem& problem) { return relative_cost(problem, 1) < 1; }

  Maddubs16ByStep(const GemmProblem& problem, int64_t groups) : Maddubs16(problem, groups, 1) {}
};

}  // namespace qstep::kernels::avx2
