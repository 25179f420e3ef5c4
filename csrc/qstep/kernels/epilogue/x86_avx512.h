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

// A Rounding turns accumulators of sixteen neighbouring channels into codes that are not clamped yet: words() gives those of
// two rows as int16 with saturation, in the order of vpackssdw.

/// One fused multiplication and addition (x86_avx2.h).
class ByFloatFactor {
 public:
  using Factor = float;

  QSTEP_INLINE ByFloatFactor(const float* factors, int32_t zero_point)
      : factor_(_mm512_loadu_ps(factors)),
        integers_(_mm512_set1_ps(0x1.8p23F)),
        code_0_(_mm512_sub_epi32(_mm512_castps_si512(integers_), _mm512_set1_epi32(zero_point))) {}

  QSTEP_INLINE __m512i words(__m512i first, __m512i second) const {
    return _mm512_packs_epi32(sixteen(first), sixteen(second));
  }

 private:
  QSTEP_INLINE __m512i sixteen(__m512i accumulators) const {
    const __m512 sum = _mm512_fmadd_ps(_mm512_maskz_cvtepi32_ps(all_lanes, accumulators), factor_, integers_);
    return _mm512_sub_epi32(_mm512_castps_si512(sum), code_0_);
  }

  __m512 factor_;
  __m512 integers_;
  __m512i code_0_;  // the bits that stand for code 0
};

/// The same in doubles: the low half of the sum's bits counts the steps.
class ByDoubleFactor {
 public:
  using Factor = double;

  QSTEP_INLINE ByDoubleFactor(const double* factors, int32_t zero_point)
      : factor_{_mm512_loadu_pd(factors), _mm512_loadu_pd(factors + 8)},
        zero_point_(_mm512_set1_epi16(static_cast<int16_t>(zero_point))) {}

  QSTEP_INLINE __m512i words(__m512i first, __m512i second) const {
    return _mm512_adds_epi16(_mm512_packs_epi32(sixteen(first), sixteen(second)), zero_point_);
  }

 private:
  QSTEP_INLINE __m512i sixteen(__m512i accumulators) const {
    const __m512i low_halves = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_epi32(eight<0>(accumulators), low_halves, eight<1>(accumulators));
  }
  template <int half>
  QSTEP_INLINE __m512i eight(__m512i accumulators) const {
    constexpr auto all_of_half = static_cast<__mmask8>(all_lanes);
    const __m256i sums = _mm512_maskz_extracti64x4_epi64(all_of_half, accumulators, half);
    const __m512d integers = _mm512_set1_pd(0x1.8p52);
    return _mm512_castpd_si512(_mm512_fmadd_pd(_mm512_maskz_cvtepi32_pd(all_of_half, sums), factor_[half], integers));
  }

  __m512d factor_[2];
  __m512i zero_point_;
};

/// From words to bytes, clamped. Every step from int32 to here saturates, so the clamp may come last, and one to [0, 255]
/// is done.
class CodeRange {
 public:
  QSTEP_INLINE explicit CodeRange(const Epilogue& epilogue)
      : low_(_mm512_set1_epi8(static_cast<char>(epilogue.clamp_min()))),
        high_(_mm512_set1_epi8(static_cast<char>(epilogue.clamp_max()))),
        is_all_(epilogue.clamp_min() == 0 && epilogue.clamp_max() == 255) {}

  /// The codes of four rows, from the words of the first and of the last two.
  QSTEP_INLINE __m512i codes(__m512i first, __m512i second) const {
    return _mm512_maskz_permutexvar_epi32(
        all_lanes, _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), bytes(first, second));
  }
  /// The same in the order of vpackuswb.
  QSTEP_INLINE __m512i bytes(__m512i first, __m512i second) const {
    const __m512i bytes = _mm512_packus_epi16(first, second);
    return is_all_ ? bytes : _mm512_min_epu8(_mm512_max_epu8(bytes, low_), high_);
  }

 private:
  __m512i low_;
  __m512i high_;
  bool is_all_;
};

/// Stores the codes of the first `rows` (1..4) rows of accumulators, those of the lanes in `mask`.
template <int rows, class Rounding>
QSTEP_INLINE inline void store_rows(const Rounding& rounding, const CodeRange& range, const __m512i (&sums)[4],
                                    __mmask16 mask, uint8_t* output, const int64_t* offsets) {
  const __m512i codes = range.codes(rounding.words(sums[0], sums[1]), rounding.words(sums[2], sums[3]));
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
