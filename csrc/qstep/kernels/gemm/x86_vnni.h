#pragma once
// What the AVX-512 VNNI and the AVX-VNNI arithmetic of the blocked matrix product (panel_gemm.h) share. The dot products
// of VNNI add to int32 lanes without saturation, so they are exact for every problem.
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "qstep/core/error.h"
#include "qstep/kernels/gemm/pack_panels.h"
#include "qstep/kernels/gemm/panel_gemm.h"
#include "qstep/kernels/gemm/x86_avx2.h"
#include "qstep/kernels/weight_factor.h"

namespace qstep::kernels::vnni {

/// vpdpbusd on uint8 codes and int8 weights, four of the depth at a step, or vpdpwssd on int16, two at a step.
///
/// Tiles has the sizes of an instruction set's tiles and its inner loops:
///   tile_rows, tile_panels(rows)
///   multiply(input, panels, weights, steps, bias, tile)   as Arithmetic::multiply; weights are those of the first panel
///   finish(epilogue, tile, output)
template <class Tiles, class CodeType, class Weight>
class DotProduct {
 public:
  using Code = CodeType;
  static constexpr int depth_step = 4 / sizeof(Weight);
  static constexpr int depth_run = depth_step;
  static constexpr int tile_rows = Tiles::tile_rows;
  static constexpr int tile_panels(int rows) { return Tiles::tile_panels(rows); }

  static bool supports(const GemmProblem& problem) { return fit<Weight>(problem.weights); }

  DotProduct(const GemmProblem& problem, int64_t groups) : steps_(ceil_divide(problem.depth, depth_step)) {
    require(supports(problem), "gemm: weights must fit {} bits", 8 * sizeof(Weight));
    pack_panels<depth_step>(problem, groups, steps_, weights_);
  }
  size_t bytes() const { return weights_.size() * sizeof(Weight); }

  void multiply(int64_t panel, int panels, const TileInput<Code>& input, const int32_t* bias, int32_t* tile) const {
    Tiles::multiply(input, panels, panel_weights(panel), steps_, bias, tile);
  }

  static void stage(const uint8_t* input, int64_t count, Code* output) {
    if constexpr (std::is_same_v<Code, uint8_t>) {
      std::memcpy(output, input, static_cast<size_t>(count));
    } else {
      avx2::Madd16::stage(input, count, output);
    }
  }

  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    Tiles::finish(epilogue, tile, output);
  }

 protected:
  const Weight* panel_weights(int64_t panel) const {
    return weights_.data() + panel * steps_ * tile_columns * depth_step;
  }
  int64_t steps() const { return steps_; }

 private:
  int64_t steps_;
  AlignedVector<Weight> weights_;  // [panels][steps][tile_columns][depth_step]
};

}  // namespace qstep::kernels::vnni
