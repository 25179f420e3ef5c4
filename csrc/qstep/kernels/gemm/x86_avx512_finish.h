#pragma once
// What becomes of the sums of a tile that the AVX-512 arithmetics hold in registers.
#include <algorithm>
#include <cstdint>

#include "qstep/kernels/epilogue/epilogue.h"
#include "qstep/kernels/epilogue/x86_avx512.h"
#include "qstep/kernels/x86_avx512.h"

#if defined(__x86_64__)
QSTEP_AVX512VNNI_BEGIN
namespace qstep::kernels::avx512vnni {

// A Finish takes the sums of a tile, finish(sum[rows][panels], first row), and moves on to the panels behind, skip(panels).

/// Stores the sums in tile[panels][tile_rows][tile_columns].
template <int tile_rows>
struct StoreTile {
  int32_t* tile;

  template <int rows, int panels>
  QSTEP_INLINE void operator()(const __m512i (&sum)[rows][panels], int first_row = 0) const {
    unroll<panels>([&](auto p) QSTEP_INLINE {
      unroll<rows>([&](auto r)
                       QSTEP_INLINE { store(tile + (p * tile_rows + first_row + r) * tile_columns, sum[r][p]); });
    });
  }

  void skip(int panels) { tile += panels * tile_rows * tile_columns; }
};

/// The epilogue of a tile in the registers that hold it.
template <class Rounding>
struct StoreCodes {
  const CodeRange range;
  const int32_t zero_point;
  const typename Rounding::Factor* factors;  // of the tile's first channel
  int channels;                              // from there on
  uint8_t* output;                           // where the first channel of offset 0 lies
  const int64_t* row_offsets;

  StoreCodes(const Epilogue& epilogue, const typename Rounding::Factor* all_factors, const AccumulatorTile& tile,
             uint8_t* codes)
      : range(epilogue),
        zero_point(epilogue.zero_point()),
        factors(all_factors + tile.first_channel),
        channels(tile.channels),
        output(codes + tile.first_channel),
        row_offsets(tile.row_offsets) {}

  template <int rows, int panels>
  QSTEP_INLINE void operator()(const __m512i (&sum)[rows][panels], int first_row = 0) const {
    unroll<panels>([&](auto p) QSTEP_INLINE {
      const Rounding rounding(factors + p * tile_columns, zero_point);
      const auto mask = static_cast<__mmask16>((1U << std::min(channels - p * tile_columns, tile_columns)) - 1);
      unroll<(rows + 3) / 4>([&](auto g) QSTEP_INLINE {
        constexpr int count = std::min(4, rows - 4 * g);
        __m512i sums[4];
        unroll<4>([&](auto i) QSTEP_INLINE { sums[i] = sum[4 * g + (i < count ? i : 0)][p]; });
        store_rows<count>(rounding, range, sums, mask, output + p * tile_columns, row_offsets + first_row + 4 * g);
      });
    });
  }

  void skip(int panels) {
    factors += panels * tile_columns;
    channels -= panels * tile_columns;
    output += panels * tile_columns;
  }
};

/// multiply(StoreCodes) with the rounding that the epilogue asks for.
template <class Multiply>
QSTEP_INLINE inline void with_store_codes(const Epilogue& epilogue, const AccumulatorTile& tile, uint8_t* codes,
                                          Multiply multiply) {
  if (const float* factors = epilogue.float_factors(); factors != nullptr) {
    multiply(StoreCodes<ByFloatFactor>(epilogue, factors, tile, codes));
  } else {
    multiply(StoreCodes<ByDoubleFactor>(epilogue, epilogue.factors(), tile, codes));
  }
}

}  // namespace qstep::kernels::avx512vnni
QSTEP_AVX512VNNI_END
#endif
