#include "qstep/kernels/depthwise/x86_avx2.h"

#include "qstep/core/error.h"
#include "qstep/kernels/gemm/int16_windows.h"
#include "qstep/kernels/weight_factor.h"
#include "qstep/kernels/x86_avx2.h"

#if defined(__x86_64__)
namespace qstep::kernels::avx2 {

DepthwiseMadd16::DepthwiseMadd16(const Conv2dProblem& problem, const BandGeometry& geometry,
                                 const std::vector<int64_t>& first_channels)
    : geometry_(geometry) {
  pack_band_weights(problem, geometry, first_channels, weights_);
}

bool DepthwiseMaddubs16::supports(const Conv2dProblem& problem) {
  if (!fit<int8_t>(problem.weights)) return false;
  const LaneSums largest = LaneSums::largest(problem.quant_max);
  const size_t taps = static_cast<size_t>(problem.window.kernel[0]) * static_cast<size_t>(problem.window.kernel[1]);
  for (size_t start = 0; start < problem.weights.size(); start += taps) {
    LaneSums sums;
    for (const int16_t w : problem.weights.subspan(start, taps)) sums.add(w);
    if (!sums.fits(largest)) return false;
  }
  return true;
}

DepthwiseMaddubs16::DepthwiseMaddubs16(const Conv2dProblem& problem, const BandGeometry& geometry,
                                       const std::vector<int64_t>& first_channels)
    : geometry_(geometry) {
  require(supports(problem), "depthwise: int16 sums of {} channels may overflow with these weights and inputs up to {}",
          problem.in_channels, problem.quant_max);
  pack_band_weights(problem, geometry, first_channels, weights_);
}

}  // namespace qstep::kernels::avx2

QSTEP_AVX2_BEGIN
namespace qstep::kernels::avx2 {
namespace {

/// One vector of eight channels' pairs into int32.
struct PairsToInt32 {
  static constexpr int tile_vectors = 2;  // of a tile of sixteen channels

  QSTEP_INLINE static void add(__m256i& sum, __m256i codes, __m256i weights) {
    add_int32(sum, _mm256_madd_epi16(codes, weights));
  }
  QSTEP_INLINE static __m256i start(const int32_t* bias) { return load(bias); }
  QSTEP_INLINE static void finish(int32_t* sums, __m256i sum, const int32_t*) { store(sums, sum); }
};

/// One vector of sixteen channels' pairs into int16.
struct PairsToInt16 {
  static constexpr int tile_vectors = 1;

  QSTEP_INLINE static void add(__m256i& sum, __m256i codes, __m256i weights) {
    add_int16(sum, _mm256_maddubs_epi16(codes, weights));
  }
  QSTEP_INLINE static __m256i start(const int32_t*) { return _mm256_setzero_si256(); }
  QSTEP_INLINE static void finish(int32_t* sums, __m256i sum, const int32_t* bias) {
    const __m256i low = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(sum));
    const __m256i high = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(sum, 1));
    store(sums, _mm256_add_epi32(low, load(bias)));
    store(sums + 8, _mm256_add_epi32(high, load(bias + 8)));
  }
};

/// `rows` x `columns` outputs of one vector of channels. weights: [taps][weight_stride], a row's `row_stride` apart.
template <class Pairs, int rows, int columns, class Code, class Weight>
QSTEP_INLINE inline void sum_taps(const StagedBand<Code>& band, const Code* codes, const Weight* weights,
                                  int64_t weight_stride, const int32_t* bias, int32_t* sums) {
  constexpr int64_t row_stride = 2 * tile_columns;
  __m256i sum[rows * columns];
  unroll<rows * columns>([&](auto i) QSTEP_INLINE { sum[i] = Pairs::start(bias); });
  const int64_t output_stride = band.output_stride;
  for (const int32_t offset : band.tap_offsets) {
    const Code* tap = codes + offset;
    unroll<columns>([&](auto x) QSTEP_INLINE {
      const __m256i pairs = load(tap + x * output_stride);
      unroll<rows>([&](auto b)
                       QSTEP_INLINE { Pairs::add(sum[b * columns + x], pairs, load(weights + b * row_stride)); });
    });
    weights += weight_stride;
  }
  unroll<rows>([&](auto b) QSTEP_INLINE {
    unroll<columns>([&](auto x) QSTEP_INLINE {
      Pairs::finish(sums + (b * band.columns + x) * tile_columns, sum[b * columns + x], bias);
    });
  });
}

template <class Pairs, int rows, int columns, class Code, class Weight>
void sum_tile(const StagedBand<Code>& band, const Weight* weights, int64_t weight_stride, const int32_t* bias,
              int32_t* sums) {
  constexpr int vector_codes = 32 / sizeof(Code);
  for (int v = 0; v < Pairs::tile_vectors; ++v) {
    for (int64_t x = band.last_tile(columns); x >= 0; x -= columns) {
      sum_taps<Pairs, rows, columns>(band, band.codes + x * band.output_stride + v * vector_codes,
                                     weights + v * vector_codes, weight_stride, bias + v * 8,
                                     sums + x * tile_columns + v * 8);
    }
  }
}

template <class Pairs, class Code, class Weight>
void sum_band(const BandGeometry& geometry, const StagedBand<Code>& band, const Weight* weights, int64_t tile,
              const int32_t* bias, int32_t* sums) {
  const int64_t weight_stride = int64_t{geometry.rows} * tile_columns * geometry.group_rows;
  weights += tile * geometry.taps() * weight_stride;
  if (band.rows == 1) {
    sum_tile<Pairs, 1, 8>(band, weights, weight_stride, bias, sums);
  } else {
    sum_tile<Pairs, 2, 4>(band, weights, weight_stride, bias, sums);
  }
}

}  // namespace

void DepthwiseMadd16::stage(const std::array<const uint8_t*, 2>& rows, const std::array<int64_t, 2>& strides,
                            int64_t columns, int width, int16_t* output, int64_t output_stride) {
  auto [first, second] = rows;
  const __m256i zero = _mm256_setzero_si256();
  for (int64_t x = 0; x < columns; ++x, first += strides[0], second += strides[1], output += output_stride) {
    if (width == 32) {
      // Unpacking works on the 128-bit halves separately: first the dwords change places, those of even number to the
      // low half.
      const __m256i order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
      const __m256i a = _mm256_permutevar8x32_epi32(load(first), order);
      const __m256i b = _mm256_permutevar8x32_epi32(load(second), order);
      const __m256i low = _mm256_unpacklo_epi8(a, b);
      const __m256i high = _mm256_unpackhi_epi8(a, b);
      store(output, _mm256_unpacklo_epi8(low, zero));
      store(output + 16, _mm256_unpackhi_epi8(low, zero));
      store(output + 32, _mm256_unpacklo_epi8(high, zero));
      store(output + 48, _mm256_unpackhi_epi8(high, zero));
    } else {
      const __m128i a = load_half(first);
      const __m128i b = load_half(second);
      store(output, _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(a, b)));
      store(output + 16, _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(a, b)));
    }
  }
}

void DepthwiseMadd16::multiply(int64_t tile, const StagedBand<int16_t>& band, const int32_t* bias,
                               int32_t* sums) const {
  sum_band<PairsToInt32>(geometry_, band, weights_.data(), tile, bias, sums);
}

void DepthwiseMaddubs16::stage(const std::array<const uint8_t*, 2>& rows, const std::array<int64_t, 2>& strides,
                               int64_t columns, int width, uint8_t* output, int64_t output_stride) {
  auto [first, second] = rows;
  for (int64_t x = 0; x < columns; ++x, first += strides[0], second += strides[1], output += output_stride) {
    if (width == 32) {
      // Unpacking works on the 128-bit halves separately: first the quarters change places.
      const __m256i a = _mm256_permute4x64_epi64(load(first), 0b11011000);
      const __m256i b = _mm256_permute4x64_epi64(load(second), 0b11011000);
      store(output, _mm256_unpacklo_epi8(a, b));
      store(output + 32, _mm256_unpackhi_epi8(a, b));
    } else {
      const __m128i a = load_half(first);
      const __m128i b = load_half(second);
      store_half(output, _mm_unpacklo_epi8(a, b));
      store_half(output + 16, _mm_unpackhi_epi8(a, b));
    }
  }
}

void DepthwiseMaddubs16::multiply(int64_t tile, const StagedBand<uint8_t>& band, const int32_t* bias,
                                  int32_t* sums) const {
  sum_band<PairsToInt16>(geometry_, band, weights_.data(), tile, bias, sums);
}

}  // namespace qstep::kernels::avx2
QSTEP_AVX2_END
#endif
