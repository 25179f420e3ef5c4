#pragma once
// AVX-VNNI: a panel is two vectors of accumulators.
#include <cstdint>

#include "qstep/kernels/gemm/x86_vnni.h"

namespace qstep::kernels::avxvnni {

struct Tiles {
  /// 12 accumulators or fewer, two vectors of weights and one of codes: 15 of 16 registers.
  static constexpr int tile_rows = 6;
  static constexpr int tile_panels(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }

  static void multiply(const TileInput<uint8_t>& input, int panels, const int8_t* weights, int64_t steps,
                       const int32_t* bias, int32_t* tile);
  static void multiply(const TileInput<int16_t>& input, int panels, const int16_t* weights, int64_t steps,
                       const int32_t* bias, int32_t* tile);
  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    epilogue.store_avx2(tile, output);
  }
};

using Dpbusd = vnni::DotProduct<Tiles, uint8_t, int8_t>;
using Dpwssd = vnni::DotProduct<Tiles, int16_t, int16_t>;

}  // namespace qstep::kernels::avxvnni
