#pragma once
// Sixteen channels to a vector: from accumulators to codes in registers.
#include <cstdint>

#include "qstep/kernels/epilogue/epilogue.h"
#include "qstep/kernels/x86_avx512.h"

#if defined(__x86_64__)
QSTEP_AVX512VNNI_BEGIN
namespace qstep::kernels::avx512vnni {

// Where all lanes are wanted the intrinsics with a mask are used nevertheless: gcc 12 warns of the others' undefined lanes.
inline constexpr __mmask16 all_lanes = 0xFFFF;

// A Rounding turns accumulators of sixteen neighbouring channels into steps of the output.

/// One fused multiplication and addition (x86_avx2.h).
class ByFloatFactor {
 public:
  using Factor = float;

  QSTEP_INLINE explicit ByFloatFactor(const float* factors) : factor_(_mm512_loadu_ps(factors)) {}

  QSTEP_INLINE __m512i steps(__m512i accumulators) const {
    const __m512 integers = _mm512_set1_ps(0x1.8p23F);
    const __m512 sum = _mm512_fmadd_ps(_mm512_maskz_cvtepi32_ps(all_lanes, accumulators), factor_, integers);
    return _mm512_sub_epi32(_mm512_castps_si512(sum), _mm512_castps_si512(integers));
  }

 private:
  __m512 factor_;
};

/// The same in doubles: the low half of the sum's bits counts the steps.
class ByDoubleFactor {
 public:
  using Factor = double;

  QSTEP_INLINE explicit ByDoubleFactor(const double* factors)
      : factor_{_mm512_loadu_pd(factors), _mm512_loadu_pd(factors + 8)} {}

  QSTEP_INLINE __m512i steps(__m512i accumulators) const {
    const __m512i low_halves = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_epi32(eight<0>(accumulators), low_halves, eight<1>(accumulators));
  }

 private:
  template <int half>
  QSTEP_INLINE __m512i eight(__m512i accumulators) const {
    constexpr auto all_of_half = static_cast<__mmask8>(all_lanes);
    const __m256i sums = _mm512_maskz_extracti64x4_epi64(all_of_half, accumulators, half);
    const __m512d integers = _mm512_set1_pd(0x1.8p52);
    return _mm512_castpd_si512(_mm512_fmadd_pd(_mm512_maskz_cvtepi32_pd(all_of_half, sums), factor_[half], integers));
  }

  __m512d factor_[2];
};

class CodeRange {
 public:
  QSTEP_INLINE explicit CodeRange(const Epilogue& epilogue)
      : zero_point_(_mm512_set1_epi16(static_cast<int16_t>(epilogue.zero_point()))),
        low_(_mm512_set1_epi8(static_cast<char>(epilogue.clamp_min()))),
        high_(_mm512_set1_epi8(static_cast<char>(epilogue.clamp_max()))) {}

  /// The codes of four rows of steps. Every step from int32 to here saturates, so the clamp may come last.
  QSTEP_INLINE __m512i codes(const __m512i (&steps)[4]) const {
    const __m512i first = _mm512_adds_epi16(_mm512_packs_epi32(steps[0], steps[1]), zero_point_);
    const __m512i second = _mm512_adds_epi16(_mm512_packs_epi32(steps[2], steps[3]), zero_point_);
    const __m512i bytes = _mm512_packus_epi16(first, second);
    const __m512i clamped = _mm512_min_epu8(_mm512_max_epu8(bytes, low_), high_);
    return _mm512_maskz_permutexvar_epi32(
        all_lanes, _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), clamped);
  }

 private:
  __m512i zero_point_;  // words
  __m512i low_;         // bytes
  __m512i high_;
};

/// Stores the codes of `rows` (1..4) rows of steps, those of the lanes in `mask`.
template <int rows>
QSTEP_INLINE inline void store_rows(const CodeRange& range, const __m512i (&steps)[4], __mmask16 mask, uint8_t* output,
                                    const int64_t* offsets) {
  const __m512i codes = range.codes(steps);
  unroll<rows>([&](auto i) QSTEP_INLINE {
    const __m128i row = _mm512_maskz_extracti32x4_epi32(static_cast<__mmask8>(all_lanes), codes, i);
    if (mask == all_lanes) {
      avx2::store_half(output + offsets[i], row);
    } else {
      _mm_mask_storeu_epi8(output + offsets[i], mask, row);
    }
  });
}

}  // namespace qstep::kernels::avx512vnni
QSTEP_AVX512VNNI_END
#endif
