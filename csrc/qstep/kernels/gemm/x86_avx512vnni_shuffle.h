#pragma once
// AVX-512 arithmetic of the blocked matrix product (panel_gemm.h) for weights of 2 bits and codes of up to 4.
#include <cstddef>
#include <cstdint>

#include "qstep/kernels/gemm/pair_tables.h"
#include "qstep/kernels/gemm/panel_gemm.h"
#include "qstep/kernels/gemm/x86_avx2_shuffle.h"

namespace qstep::kernels::avx512vnni {

/// Products by table (pair_tables.h): vpshufb looks up 64 columns, 128 products, twice as many as vpdpbusd makes.
class Shuffle8 : public PairTables {
 public:
  static constexpr int tile_panels(int) { return 16; }

  /// True where entries of tables and their sums fit.
  static bool supports(const GemmProblem& problem, int64_t groups);
  static bool supports(const GemmProblem& problem) { return supports(problem, 1); }
  /// True where it is faster than Dpbusd.
  static bool suits(const GemmProblem& problem) {
    return looks_up_as_often_as_multiplies() && relative_cost(problem, 1) < 1;
  }

  /// Its time in that of Dpbusd; infinite where it is not supported.
  static double relative_cost(const GemmProblem& problem, int64_t groups);

  Shuffle8(const GemmProblem& problem, int64_t groups);

  void multiply(int64_t panel, int panels, const TileInput<std::byte>& input, const int32_t* bias, int32_t* tile) const;
  static void stage(const uint8_t* input, int64_t count, std::byte* output) {
    avx2::Shuffle8::stage(input, count, output);
  }
  static void stage_copies(uint8_t code, int64_t count, std::byte* output) {
    avx2::Shuffle8::stage_copies(code, count, output);
  }
  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    epilogue.store_avx512(tile, output);
  }

  static bool finishes_in_registers(const Epilogue& epilogue) {
    return epilogue.float_factors() != nullptr || epilogue.factors() != nullptr;
  }
  void multiply_and_finish(int64_t panel, int panels, const TileInput<std::byte>& input, const int32_t* bias,
                           const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) const;

 private:
  template <class Finish>
  void multiply(int64_t panel, int panels, const TileInput<std::byte>& input, const int32_t* bias, Finish finish) const;
};

}  // namespace qstep::kernels::avx512vnni
