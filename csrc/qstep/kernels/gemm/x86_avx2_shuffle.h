#pragma once
// AVX2 arithmetic of the blocked matrix product (panel_gemm.h) for weights of 2 bits and codes of up to 4.
#include <cstddef>
#include <cstdint>

#include "qstep/kernels/gemm/pair_tables.h"
#include "qstep/kernels/gemm/panel_gemm.h"

namespace qstep::kernels::avx2 {

/// Products by table (pair_tables.h): vpshufb looks up 32 columns, 64 products.
class Shuffle8 : public PairTables {
 public:
  static constexpr int tile_panels(int) { return 4; }

  /// True where entries of tables and their sums fit.
  static bool supports(const GemmProblem& problem, int64_t groups);
  static bool supports(const GemmProblem& problem) { return supports(problem, 1); }
  /// True where it is faster than Maddubs16.
  static bool suits(const GemmProblem& problem) { return relative_cost(problem, 1) < 1; }

  /// Its time in that of Maddubs16; infinite where it is not supported.
  static double relative_cost(const GemmProblem& problem, int64_t groups);

  Shuffle8(const GemmProblem& problem, int64_t groups);

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
  void multiply(int64_t panel, int panels, const TileInput<std::byte>& input, const int32_t* bias,
                Finish&& finish) const;
};

}  // namespace qstep::kernels::avx2
