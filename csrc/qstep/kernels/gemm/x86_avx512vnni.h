#pragma once
// AVX-512 VNNI: a panel is one vector of accumulators.
#include <cstdint>

#include "qstep/kernels/gemm/x86_vnni.h"

namespace qstep::kernels::avx512vnni {

struct Tiles {
  /// 28 or 24 accumulators, one vector of each panel's weights and one of codes: 31 or 29 of 32 registers. Fourteen divides the
  /// images of most networks, 7 times a power of two.
  static constexpr int tile_rows = 14;
  static constexpr int tile_panels(int rows) { return rows <= 6 ? 4 : 2; }

  static void multiply(const TileInput<uint8_t>& input, int panels, const int8_t* weights, int64_t steps,
                       const int32_t* bias, int32_t* tile);
  static void multiply(const TileInput<int16_t>& input, int panels, const int16_t* weights, int64_t steps,
                       const int32_t* bias, int32_t* tile);
  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    epilogue.store_avx512(tile, output);
  }
};

class Dpbusd : public vnni::DotProduct<Tiles, uint8_t, int8_t> {
 public:
  using DotProduct::DotProduct;

  static constexpr bool takes_tiles = true;
  static bool finishes_in_registers(const Epilogue& epilogue) {
    return epilogue.float_factors() != nullptr || epilogue.factors() != nullptr;
  }
  void multiply_and_finish(int64_t panel, int panels, const TileInput<uint8_t>& input, const int32_t* bias,
                           const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) const;
};
using Dpwssd = vnni::DotProduct<Tiles, int16_t, int16_t>;

}  // namespace qstep::kernels::avx512vnni
