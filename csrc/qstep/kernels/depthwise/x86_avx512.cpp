#include "qstep/kernels/depthwise/x86_avx512.h"

#include "qstep/core/error.h"
#include "qstep/kernels/epilogue/x86_avx512.h"
#include "qstep/kernels/weight_factor.h"
#include "qstep/kernels/x86_avx512.h"

#if defined(__x86_64__)
namespace qstep::kernels::avx512vnni {

bool DepthwiseDot8::supports(const Conv2dProblem& problem) { return fit<int8_t>(problem.weights); }

DepthwiseDot8::DepthwiseDot8(const Conv2dProblem& problem, const BandGeometry& geometry,
                             const std::vector<int64_t>& first_channels)
    : geometry_(geometry) {
  require(supports(problem), "depthwise: weights must fit int8");
  pack_band_weights(problem, geometry, first_channels, weights_);
}

}  // namespace qstep::kernels::avx512vnni

QSTEP_AVX512VNNI_BEGIN
namespace qstep::kernels::avx512vnni {
namespace {

/// Stores sums as they are.
struct StoreSums {
  int64_t columns;
  int32_t* sums;

  template <int rows, int width>
  QSTEP_INLINE void operator()(const __m512i (&sum)[rows * width], int64_t x) const {
    unroll<rows>([&](auto b) QSTEP_INLINE {
      unroll<width>([&](auto i)
                        QSTEP_INLINE { store(sums + (b * columns + x + i) * tile_columns, sum[b * width + i]); });
    });
  }
};

/// Stores codes, four columns at a time.
struct StoreCodes {
  ByFloatFactor rounding;
  CodeRange range;
  __mmask16 mask;
  int64_t columns;
  const int64_t* offsets;
  uint8_t* output;

  template <int rows, int width>
  QSTEP_INLINE void operator()(const __m512i (&sum)[rows * width], int64_t x) const {
    unroll<rows>([&](auto b) QSTEP_INLINE {
      unroll<width / 4>([&](auto g) QSTEP_INLINE {
        __m512i sums[4];
        unroll<4>([&](auto i) QSTEP_INLINE { sums[i] = sum[b * width + 4 * g + i]; });
        store_columns(sums, columns - x - 4 * g, offsets + b * columns + x + 4 * g);
      });
    });
  }

 private:
  /// The first of four columns, `count` of them or all where there are more; none where there are none.
  QSTEP_INLINE void store_columns(const __m512i (&sums)[4], int64_t count, const int64_t* at) const {
    if (count >= 4) {
      store_rows<4>(rounding, range, sums, mask, output, at);
    } else if (count == 3) {
      store_rows<3>(rounding, range, sums, mask, output, at);
    } else if (count == 2) {
      store_rows<2>(rounding, range, sums, mask, output, at);
    } else if (count == 1) {
      store_rows<1>(rounding, range, sums, mask, output, at);
    }
  }
};

/// `rows` x `width` outputs. weights: [taps][weight_stride], a row's `row_stride` apart.
template <int rows, int width, class Store>
QSTEP_INLINE inline void sum_taps(const StagedBand<uint8_t>& band, int64_t x, const int8_t* weights,
                                  int64_t weight_stride, const int32_t* bias, const Store& store) {
  constexpr int64_t row_stride = 4 * tile_columns;
  __m512i sum[rows * width];
  unroll<rows * width>([&](auto i) QSTEP_INLINE { sum[i] = load(bias); });
  const int64_t output_stride = band.output_stride;
  const uint8_t* codes = band.codes + x * output_stride;
  for (const int32_t offset : band.tap_offsets) {
    const uint8_t* tap = codes + offset;
    unroll<width>([&](auto i) QSTEP_INLINE {
      const __m512i quads = load(tap + i * output_stride);
      unroll<rows>([&](auto b) QSTEP_INLINE {
        __m512i& to = sum[b * width + i];
        to = _mm512_dpbusd_epi32(to, quads, load(weights + b * row_stride));
        keep_in_register(to);
      });
    });
    weights += weight_stride;
  }
  store.template operator()<rows, width>(sum, x);
}

template <int rows, int width, class Store>
QSTEP_INLINE inline void sum_tile(const StagedBand<uint8_t>& band, const int8_t* weights, int64_t weight_stride,
                                  const int32_t* bias, const Store& store) {
  for (int64_t x = band.last_tile(width); x >= 0; x -= width) {
    sum_taps<rows, width>(band, x, weights, weight_stride, bias, store);
  }
}

// Unpacking works on 128-bit lanes separately. First the dwords of a row change places, so that lane l holds those
// that come as dword l of every quarter of the output.

QSTEP_INLINE inline void stage_64(const std::array<const uint8_t*, 4>& rows, uint8_t* output) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  __m512i row[4];
  unroll<4>([&](auto r) QSTEP_INLINE { row[r] = _mm512_maskz_permutexvar_epi32(0xFFFF, order, load(rows[r])); });
  const __m512i low_01 = _mm512_unpacklo_epi8(row[0], row[1]);
  const __m512i low_23 = _mm512_unpacklo_epi8(row[2], row[3]);
  const __m512i high_01 = _mm512_unpackhi_epi8(row[0], row[1]);
  const __m512i high_23 = _mm512_unpackhi_epi8(row[2], row[3]);
  store(output, _mm512_unpacklo_epi16(low_01, low_23));
  store(output + 64, _mm512_unpackhi_epi16(low_01, low_23));
  store(output + 128, _mm512_unpacklo_epi16(high_01, high_23));
  store(output + 192, _mm512_unpackhi_epi16(high_01, high_23));
}

QSTEP_INLINE inline void stage_32(const std::array<const uint8_t*, 4>& rows, uint8_t* output) {
  const __m256i order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
  __m256i row[4];
  unroll<4>([&](auto r) QSTEP_INLINE { row[r] = _mm256_permutevar8x32_epi32(avx2::load(rows[r]), order); });
  const __m256i low_01 = _mm256_unpacklo_epi8(row[0], row[1]);
  const __m256i low_23 = _mm256_unpacklo_epi8(row[2], row[3]);
  const __m256i high_01 = _mm256_unpackhi_epi8(row[0], row[1]);
  const __m256i high_23 = _mm256_unpackhi_epi8(row[2], row[3]);
  avx2::store(output, _mm256_unpacklo_epi16(low_01, low_23));
  avx2::store(output + 32, _mm256_unpackhi_epi16(low_01, low_23));
  avx2::store(output + 64, _mm256_unpacklo_epi16(high_01, high_23));
  avx2::store(output + 96, _mm256_unpackhi_epi16(high_01, high_23));
}

}  // namespace

void DepthwiseDot8::stage(const std::array<const uint8_t*, 4>& rows, const std::array<int64_t, 4>& strides,
                          int64_t columns, int width, uint8_t* output, int64_t output_stride) {
  std::array<const uint8_t*, 4> at = rows;
  for (int64_t x = 0; x < columns; ++x, output += output_stride) {
    if (width == 64) {
      stage_64(at, output);
    } else {
      stage_32(at, output);
    }
    unroll<4>([&](auto r) QSTEP_INLINE { at[r] += strides[r]; });
  }
}

template <class Store>
void DepthwiseDot8::multiply(int64_t tile, const StagedBand<uint8_t>& band, const int32_t* bias,
                             const Store& store) const {
  const int64_t weight_stride = int64_t{geometry_.rows} * tile_columns * group_rows;
  const int8_t* weights = weights_.data() + tile * geometry_.taps() * weight_stride;
  switch (band.rows) {
    case 1:
      return sum_tile<1, 8>(band, weights, weight_stride, bias, store);
    case 2:
      return sum_tile<2, 8>(band, weights, weight_stride, bias, store);
    case 3:
      return sum_tile<3, 4>(band, weights, weight_stride, bias, store);
    default:
      return sum_tile<4, 4>(band, weights, weight_stride, bias, store);
  }
}

void DepthwiseDot8::multiply(int64_t tile, const StagedBand<uint8_t>& band, const int32_t* bias, int32_t* sums) const {
  multiply(tile, band, bias, StoreSums{band.columns, sums});
}

void DepthwiseDot8::multiply_to_codes(int64_t tile, const StagedBand<uint8_t>& band, const int32_t* bias,
                                      const Epilogue& epilogue, const AccumulatorTile& where, uint8_t* output) const {
  multiply(tile, band, bias,
           StoreCodes{ByFloatFactor(epilogue.float_factors() + where.first_channel, epilogue.zero_point()),
                      CodeRange(epilogue), static_cast<__mmask16>((1U << where.channels) - 1), band.columns,
                      where.row_offsets, output + where.first_channel});
}

}  // namespace qstep::kernels::avx512vnni
QSTEP_AVX512VNNI_END
#endif
