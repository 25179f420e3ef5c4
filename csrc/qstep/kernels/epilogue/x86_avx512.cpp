// As x86_avx2.cpp, sixteen channels to a vector and four rows of codes at a time. What is rare is left to that file.
#include <algorithm>

#include "qstep/kernels/epilogue/epilogue.h"
#include "qstep/kernels/x86_avx512.h"

#if defined(__x86_64__)
QSTEP_AVX512VNNI_BEGIN
namespace qstep::kernels {
namespace {

// A Rounding turns accumulators of sixteen neighbouring channels into steps of the output.

class ByFloatFactor {
 public:
  QSTEP_INLINE explicit ByFloatFactor(const float* factors) : factor_(_mm512_loadu_ps(factors)) {}

  QSTEP_INLINE __m512i steps(__m512i accumulators) const {
    const __m512 integers = _mm512_set1_ps(0x1.8p23F);
    const __m512 sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(accumulators), factor_, integers);
    return _mm512_sub_epi32(_mm512_castps_si512(sum), _mm512_castps_si512(integers));
  }

 private:
  __m512 factor_;
};

/// The same in doubles: the low half of the sum's bits counts the steps.
class ByDoubleFactor {
 public:
  QSTEP_INLINE explicit ByDoubleFactor(const double* factors)
      : factor_{_mm512_loadu_pd(factors), _mm512_loadu_pd(factors + 8)} {}

  QSTEP_INLINE __m512i steps(__m512i accumulators) const {
    const __m512i low_halves = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_epi32(eight(_mm512_castsi512_si256(accumulators), factor_[0]), low_halves,
                                     eight(_mm512_extracti64x4_epi64(accumulators, 1), factor_[1]));
  }

 private:
  QSTEP_INLINE static __m512i eight(__m256i accumulators, __m512d factor) {
    return _mm512_castpd_si512(_mm512_fmadd_pd(_mm512_cvtepi32_pd(accumulators), factor, _mm512_set1_pd(0x1.8p52)));
  }

  __m512d factor_[2];
};

class CodeRange {
 public:
  QSTEP_INLINE CodeRange(int32_t zero_point, int32_t clamp_min, int32_t clamp_max)
      : zero_point_(_mm512_set1_epi16(static_cast<int16_t>(zero_point))),
        low_(_mm512_set1_epi8(static_cast<char>(clamp_min))),
        high_(_mm512_set1_epi8(static_cast<char>(clamp_max))) {}

  /// The codes of four rows of steps. Every step from int32 to here saturates, so the clamp may come last.
  QSTEP_INLINE __m512i codes(const __m512i (&steps)[4]) const {
    const __m512i first = _mm512_adds_epi16(_mm512_packs_epi32(steps[0], steps[1]), zero_point_);
    const __m512i second = _mm512_adds_epi16(_mm512_packs_epi32(steps[2], steps[3]), zero_point_);
    const __m512i bytes = _mm512_packus_epi16(first, second);
    const __m512i clamped = _mm512_min_epu8(_mm512_max_epu8(bytes, low_), high_);
    return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), clamped);
  }

 private:
  __m512i zero_point_;  // words
  __m512i low_;         // bytes
  __m512i high_;
};

template <class Rounding>
void store_codes(const AccumulatorTile& tile, const Rounding& rounding, const CodeRange& range, uint8_t* output) {
  constexpr int group = 4;
  const int32_t* accumulators = tile.accumulators;
  const int64_t* offsets = tile.row_offsets;
  const int rows = tile.rows;
  const auto mask = static_cast<__mmask16>((1U << tile.channels) - 1);
  output += tile.first_channel;
  for (int r = 0; r < rows; r += group) {
    __m512i steps[group];
    uint8_t* row[group];
    avx512vnni::unroll<group>([&](auto i) QSTEP_INLINE {
      const int at = std::min(r + i, rows - 1);  // beyond the end, the last row again
      steps[i] = rounding.steps(avx512vnni::load(accumulators + at * tile_columns));
      row[i] = output + offsets[at];
    });
    const __m512i codes = range.codes(steps);
    avx512vnni::unroll<group>(
        [&](auto i) QSTEP_INLINE { _mm_mask_storeu_epi8(row[i], mask, _mm512_extracti32x4_epi32(codes, i)); });
  }
}

}  // namespace

void Epilogue::store_avx512(const AccumulatorTile& tile, const Output& output) const {
  const CodeRange range(zero_point_, clamp_min_, clamp_max_);
  if (!float_factors_.empty()) {
    store_codes(tile, ByFloatFactor(float_factors_.data() + tile.first_channel), range, output.codes);
  } else if (!factors_.empty()) {
    store_codes(tile, ByDoubleFactor(factors_.data() + tile.first_channel), range, output.codes);
  } else {
    store_avx2(tile, output);
  }
}

}  // namespace qstep::kernels
QSTEP_AVX512VNNI_END
#endif
