#include "qstep/kernels/gemm/x86_avx512vnni.h"

#include <algorithm>
#include <array>
#include <bit>

#include "qstep/kernels/epilogue/x86_avx512.h"
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

/// The epilogue of a tile in the registers that hold it.
template <class Rounding>
struct StoreCodes {
  const CodeRange range;
  const typename Rounding::Factor* factors;  // of the tile's first channel
  int channels;                              // from there on
  uint8_t* output;                           // where the first channel of offset 0 lies
  const int64_t* row_offsets;

  template <int rows, int panels>
  QSTEP_INLINE void operator()(const Vector (&sum)[rows][panels]) const {
    unroll<panels>([&](auto p) QSTEP_INLINE {
      const Rounding rounding(factors + p * tile_columns);
      const auto mask = static_cast<__mmask16>((1U << std::min(channels - p * tile_columns, tile_columns)) - 1);
      unroll<(rows + 3) / 4>([&](auto g) QSTEP_INLINE {
        constexpr int count = std::min(4, rows - 4 * g);
        Vector steps[4];
        unroll<4>([&](auto i)
                      QSTEP_INLINE { steps[i] = i < count ? rounding.steps(sum[4 * g + i % count][p]) : steps[0]; });
        store_rows<count>(range, steps, mask, output + p * tile_columns, row_offsets + 4 * g);
      });
    });
  }

  void skip(int panels) {
    factors += panels * tile_columns;
    channels -= panels * tile_columns;
    output += panels * tile_columns;
  }
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

void Dpbusd::multiply_and_finish(int64_t panel, int panels, const TileInput<uint8_t>& input, const int32_t* bias,
                                 const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) const {
  const auto multiply = [&]<class Rounding>(const typename Rounding::Factor* factors) {
    multiply_panels(input, panels, panel_weights(panel), steps(), bias,
                    StoreCodes<Rounding>{CodeRange(epilogue), factors + tile.first_channel, tile.channels,
                                         output.codes + tile.first_channel, tile.row_offsets});
  };
  if (epilogue.float_factors() != nullptr) {
    multiply.operator()<ByFloatFactor>(epilogue.float_factors());
  } else {
    multiply.operator()<ByDoubleFactor>(epilogue.factors());
  }
}

}  // namespace qstep::kernels::avx512vnni
QSTEP_AVX512VNNI_END
#endif
