#pragma once
// Requantization by a power of two in int32 lanes (policy shift of core/requantize.h): no multiplication.
#include "qstep/kernels/x86_avx2.h"

#if defined(__x86_64__)
QSTEP_AVX2_BEGIN
namespace qstep::kernels::avx2 {

/// round_half_even(x / 2^shift) in eight lanes, each with a shift of its own in [-31, 62]; a negative one goes left.
///
/// Right for every |x| < 2^31, but for results beyond +-255, of which only the sign and being beyond is kept: what
/// follows is a clamp to codes. So a shift to the left needs 9 bits at most, and nothing wraps; a shift of 32 or more
/// leaves less than half a step, which is 0.
class ShiftHalfEven {
 public:
  QSTEP_INLINE explicit ShiftHalfEven(__m256i shift) {
    const __m256i zero = _mm256_setzero_si256();
    const __m256i one = _mm256_set1_epi32(1);
    const __m256i unlimited = _mm256_set1_epi32(INT32_MAX);
    const __m256i goes_left = _mm256_cmpgt_epi32(zero, shift);
    const __m256i shifts_out = _mm256_cmpgt_epi32(shift, _mm256_set1_epi32(31));
    left_ = _mm256_min_epi32(_mm256_max_epi32(_mm256_sub_epi32(zero, shift), zero), _mm256_set1_epi32(9));
    right_ = _mm256_min_epi32(_mm256_max_epi32(shift, zero), _mm256_set1_epi32(31));
    limit_ = _mm256_andnot_si256(shifts_out, _mm256_blendv_epi8(unlimited, _mm256_set1_epi32(512), goes_left));
    // A remainder never exceeds INT32_MAX: where nothing is shifted out, nothing is rounded.
    const __m256i half = _mm256_sllv_epi32(one, _mm256_sub_epi32(right_, one));
    half_ = _mm256_blendv_epi8(half, unlimited, _mm256_cmpeq_epi32(right_, zero));
  }
  QSTEP_INLINE explicit ShiftHalfEven(int shift) : ShiftHalfEven(_mm256_set1_epi32(shift)) {}

  QSTEP_INLINE __m256i operator()(__m256i x) const {
    const __m256i limited =
        _mm256_max_epi32(_mm256_min_epi32(x, limit_), _mm256_sub_epi32(_mm256_setzero_si256(), limit_));
    const __m256i scaled = _mm256_sllv_epi32(limited, left_);
    const __m256i floor = _mm256_srav_epi32(scaled, right_);
    const __m256i remainder = _mm256_sub_epi32(scaled, _mm256_sllv_epi32(floor, right_));
    // Up where remainder > half, or equal and floor odd. In this form 2^31 - 1, the largest remainder, does not wrap.
    const __m256i odd = _mm256_and_si256(floor, _mm256_set1_epi32(1));
    const __m256i up = _mm256_cmpgt_epi32(remainder, _mm256_sub_epi32(half_, odd));
    return _mm256_sub_epi32(floor, up);
  }

 private:
  __m256i left_;
  __m256i right_;
  __m256i limit_;  // of |x|
  __m256i half_;   // of a step, in units of x
};

/// Lanes of a result before the zero point, kept between two integers.
struct Limits {
  __m256i low;
  __m256i high;

  QSTEP_INLINE __m256i operator()(__m256i x) const { return _mm256_min_epi32(_mm256_max_epi32(x, low), high); }
};

}  // namespace qstep::kernels::avx2
QSTEP_AVX2_END
#endif
