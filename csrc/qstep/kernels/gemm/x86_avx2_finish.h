#pragma once
// What becomes of the sums of a tile that the AVX2 arithmetics hold in registers.
#include <algorithm>
#include <cstdint>

#include "qstep/kernels/epilogue/epilogue.h"
#include "qstep/kernels/epilogue/x86_avx2.h"
#include "qstep/kernels/gemm/x86_avx2.h"
#include "qstep/kernels/x86_avx2.h"

#if defined(__x86_64__)
QSTEP_AVX2_BEGIN
namespace qstep::kernels::avx2 {

/// Where sums lie in a tile: those of row r in its row `row + r * row_step`, from a panel on.
struct TilePlace {
  int row = 0;
  int row_step = 1;
  int panel = 0;
};

// A Finish takes the sums of a tile's rows, finish(left, right), or of some of them, finish(left, right, place), may need
// the left ones only, and moves on to the panels behind, skip(panels). Until then tile[tile_rows][tile_columns] may hold
// sums that are not complete.

/// Stores the sums in tile[panels][tile_rows][tile_columns].
struct StoreTile {
  int32_t* tile;
  int tile_rows = Madd16::tile_rows;

  template <int rows>
  QSTEP_INLINE void operator()(const __m256i (&left)[rows], const __m256i (&right)[rows], TilePlace place = {}) const {
    int32_t* to = tile + (place.panel * tile_rows + place.row) * tile_columns;
    unroll<rows>([&](auto r) QSTEP_INLINE {
      store(to + r * place.row_step * tile_columns, left[r]);
      store(to + r * place.row_step * tile_columns + half_columns, right[r]);
    });
  }

  QSTEP_INLINE static bool needs_right_half() { return true; }
  QSTEP_INLINE void skip(int panels) { tile += panels * tile_rows * tile_columns; }
};

/// The epilogue of a tile in the registers that hold it.
struct StoreCodes {
  const CodeRange range;
  const int32_t zero_point;
  const float* factors;  // of the tile's first channel
  int channels;          // from there on
  uint8_t* output;       // where the first channel of offset 0 lies
  const int64_t* row_offsets;
  alignas(memory_alignment) int32_t tile[Madd16::tile_rows * tile_columns];

  QSTEP_INLINE StoreCodes(const Epilogue& epilogue, const AccumulatorTile& where, uint8_t* codes)
      : range(epilogue),
        zero_point(epilogue.zero_point()),
        factors(epilogue.float_factors() + where.first_channel),
        channels(where.channels),
        output(codes + where.first_channel),
        row_offsets(where.row_offsets) {}

  template <int rows>
  QSTEP_INLINE void operator()(const __m256i (&left)[rows], const __m256i (&right)[rows], TilePlace place = {}) const {
    const int channel = place.panel * tile_columns;
    store_codes(left, right, ByFloatFactor(factors + channel, zero_point), range,
                std::min(channels - channel, tile_columns), output + channel, row_offsets + place.row, place.row_step);
  }

  QSTEP_INLINE bool needs_right_half() const { return channels > half_columns; }
  QSTEP_INLINE void skip(int panels) {
    factors += panels * tile_columns;
    channels -= panels * tile_columns;
    output += panels * tile_columns;
  }
};

}  // namespace qstep::kernels::avx2
QSTEP_AVX2_END
#endif
