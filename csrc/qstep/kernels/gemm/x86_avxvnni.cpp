#include "qstep/kernels/gemm/x86_avxvnni.h"

#include "qstep/kernels/x86_avx2.h"

// The instructions are written out: an intrinsic of AVX-VNNI may not be inlined into the functions of x86_avx2.h.
#if defined(__x86_64__)
QSTEP_AVX2_BEGIN
namespace qstep::kernels::avxvnni {
namespace {

using avx2::broadcast_4_bytes;
using avx2::keep_in_register;
using avx2::load;
using avx2::store;
using avx2::unroll;
using Vector = __m256i;

QSTEP_INLINE inline Vector dot(Vector sum, Vector codes, Vector weights, uint8_t) {
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(codes), "x"(weights));
  return sum;
}
QSTEP_INLINE inline Vector dot(Vector sum, Vector codes, Vector weights, int16_t) {
  asm("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(codes), "x"(weights));
  return sum;
}

#include "qstep/kernels/gemm/x86_vnni.inc"

/// Stores the sums in tile[panels][tile_rows][tile_columns].
struct StoreTile {
  int32_t* tile;

  template <int rows, int vectors>
  QSTEP_INLINE void operator()(const Vector (&sum)[rows][vectors], int) const {
    unroll<vectors>([&](auto v) QSTEP_INLINE {
      int32_t* to = tile + v / panel_vectors * tile_size + v % panel_vectors * vector_lanes;
      unroll<rows>([&](auto r) QSTEP_INLINE { store(to + r * tile_columns, sum[r][v]); });
    });
  }

  void skip(int panels) { tile += panels * tile_size; }

  static constexpr int tile_size = Tiles::tile_rows * tile_columns;
};

}  // namespace

void Tiles::multiply(const TileInput<uint8_t>& input, int panels, const int8_t* weights, int64_t steps,
                     const int32_t* bias, int32_t* tile) {
  multiply_panels(input, panels, weights, steps, bias, StoreTile{tile});
}

void Tiles::multiply(const TileInput<int16_t>& input, int panels, const int16_t* weights, int64_t steps,
                     const int32_t* bias, int32_t* tile) {
  multiply_panels(input, panels, weights, steps, bias, StoreTile{tile});
}

}  // namespace qstep::kernels::avxvnni
QSTEP_AVX2_END
#endif
