#include "qstep/kernels/gemm/x86_avx512vnni.h"

#include "qstep/kernels/gemm/x86_avx512_finish.h"
#include "qstep/kernels/x86_avx512.h"

#if defined(__x86_64__)
QSTEP_AVX512VNNI_BEGIN
namespace qstep::kernels::avx512vnni {
namespace {

using Vector = __m512i;

QSTEP_INLINE inline Vector dot(Vector sum, Vector codes, Vector weights, uint8_t) {
  return _mm512_dpbusd_epi32(sum, codes, weights);
}
QSTEP_INLINE inline Vector dot(Vector sum, Vector codes, Vector weights, int16_t) {
  return _mm512_dpwssd_epi32(sum, codes, weights);
}

#include "qstep/kernels/gemm/x86_vnni.inc"

}  // namespace

void Tiles::multiply(const TileInput<uint8_t>& input, int panels, const int8_t* weights, int64_t steps,
                     const int32_t* bias, int32_t* tile) {
  multiply_panels(input, panels, weights, steps, bias, StoreTile<tile_rows>{tile});
}

void Tiles::multiply(const TileInput<int16_t>& input, int panels, const int16_t* weights, int64_t steps,
                     const int32_t* bias, int32_t* tile) {
  multiply_panels(input, panels, weights, steps, bias, StoreTile<tile_rows>{tile});
}

void Dpbusd::multiply_and_finish(int64_t panel, int panels, const TileInput<uint8_t>& input, const int32_t* bias,
                                 const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) const {
  with_store_codes(epilogue, tile, output.codes,
                   [&](auto finish) { multiply_panels(input, panels, panel_weights(panel), steps(), bias, finish); });
}

}  // namespace qstep::kernels::avx512vnni
QSTEP_AVX512VNNI_END
#endif
