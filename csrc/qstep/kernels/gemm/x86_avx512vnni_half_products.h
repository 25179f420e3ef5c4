#pragma once
// AVX-512 VNNI arithmetic of the blocked matrix product (panel_gemm.h) with half as many multiplications, for codes and
// weights that share eight bits.
//
// S. Winograd, "A new algorithm for inner product" (IEEE Transactions on Computers C-17, 1968): of two codes x, y and their
// weights v, w,
//   x v + y w = (x + w)(y + v) - x y - v w
// where x y is the same for all columns and v w for all rows. A product takes two additions for it, which CPUs with more
// units for additions than for products do beside the products.
#include <cstddef>
#include <cstdint>
#include <span>

#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/gemm/panel_gemm.h"

namespace qstep::kernels::avx512vnni {

/// vpdpbusd on sums of codes and weights, with whatever pads the depth being codes too: the first of each pair in [0, 255], the second in [-128, 127], both with a
/// constant added to the weights.
class HalfProducts {
 public:
  using Code = uint8_t;
  /// 16 accumulators, two vectors of weights for each panel, two of codes, sums: 30 of 32 registers.
  static constexpr int tile_rows = 4;
  static constexpr int tile_panels(int) { return 4; }
  static constexpr int depth_step = 32;
  static constexpr int depth_run = depth_step;

  /// True where the range of codes and that of weights together fit a byte.
  static bool supports(const GemmProblem& problem);
  /// True where the CPU adds beside its products and nothing is lost with short ones.
  static bool suits(const GemmProblem& problem);

  HalfProducts(const GemmProblem& problem, int64_t groups);
  size_t bytes() const { return weights_.size() + corrections_.size() * sizeof(int32_t); }

  void row_parts(std::span<const uint8_t* const> rows, const int32_t* steps, int32_t* parts) const;
  void multiply(int64_t panel, int panels, const TileInput<uint8_t>& input, const int32_t* bias, int32_t* tile) const;
  static void stage(const uint8_t* input, int64_t count, uint8_t* output);
  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    epilogue.store_avx512(tile, output);
  }

  static bool finishes_in_registers(const Epilogue& epilogue) {
    return epilogue.float_factors() != nullptr || epilogue.factors() != nullptr;
  }
  void multiply_and_finish(int64_t panel, int panels, const TileInput<uint8_t>& input, const int32_t* bias,
                           const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) const;

 private:
  template <class Finish>
  void multiply(int64_t panel, int panels, const TileInput<uint8_t>& input, const int32_t* bias, Finish finish) const;

  int64_t steps_;
  int32_t first_offset_;   // added to the weights that codes under first places meet
  int32_t second_offset_;  // and to the others
  /// [panels][steps][4][first or second][tile_columns][4]: weights of the second four of eight values of depth, which are
  /// added to the first four codes, and those of the first four.
  AlignedVector<uint8_t> weights_;
  AlignedVector<int32_t>
      corrections_;  // what each column's weights leave in its sums, negative; [panels][tile_columns]
};

}  // namespace qstep::kernels::avx512vnni
