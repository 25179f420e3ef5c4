#include "qstep/kernels/elementwise/kernels.h"
#include "qstep/kernels/elementwise/runs.h"
#include "qstep/kernels/elementwise/split_sum.h"
#include "qstep/kernels/x86_avx512.h"

#if defined(__x86_64__)
QSTEP_AVX512VNNI_BEGIN
namespace qstep::kernels {
namespace {

/// SplitSum, sixteen pairs of codes to a vector.
class SplitSums {
 public:
  explicit SplitSums(const BilinearProblem& p) : SplitSums(SplitSum(p), p) {}

  QSTEP_INLINE __m512i codes(__m512i a, __m512i b) const {
    const __m512i first = _mm512_unpacklo_epi8(a, b);
    const __m512i second = _mm512_unpackhi_epi8(a, b);
    const __m512i bytes = _mm512_packus_epi16(words(first), words(second));
    return _mm512_min_epu8(_mm512_max_epu8(bytes, clamp_min_), clamp_max_);
  }

 private:
  SplitSums(const SplitSum& sum, const BilinearProblem& p)
      : bits_(_mm_cvtsi32_si128(sum.bits)),
        low_factors_(_mm512_set1_epi32(sum.low_factors)),
        high_factors_(_mm512_set1_epi32(sum.high_factors)),
        low_constant_(_mm512_set1_epi32(sum.low_constant)),
        high_constant_(_mm512_set1_epi32(sum.high_constant)),
        low_mask_(_mm512_set1_epi32((1 << sum.bits) - 1)),
        unit_(_mm512_set1_ps(sum.unit)),
        zero_point_(_mm512_set1_epi16(static_cast<int16_t>(p.zero_point))),
        clamp_min_(_mm512_set1_epi8(static_cast<char>(p.clamp_min))),
        clamp_max_(_mm512_set1_epi8(static_cast<char>(p.clamp_max))) {}

  /// Of the pairs of bytes in each lane, in order.
  QSTEP_INLINE __m512i words(__m512i ab) const {
    const __m512i zero = _mm512_setzero_si512();
    const __m512i steps =
        _mm512_packs_epi32(sixteen(_mm512_unpacklo_epi8(ab, zero)), sixteen(_mm512_unpackhi_epi8(ab, zero)));
    return _mm512_adds_epi16(steps, zero_point_);
  }

  QSTEP_INLINE __m512i sixteen(__m512i ab) const {
    const __m512 integers = _mm512_set1_ps(0x1.8p23F);
    const __m512i low = _mm512_dpwssd_epi32(low_constant_, ab, low_factors_);
    const __m512i carried = _mm512_add_epi32(high_constant_, _mm512_maskz_srl_epi32(0xFFFF, low, bits_));
    const __m512i high = _mm512_dpwssd_epi32(carried, ab, high_factors_);
    const __mmask16 has_rest = _mm512_test_epi32_mask(low, low_mask_);
    const __m512i odd = _mm512_mask_or_epi32(high, has_rest, high, _mm512_set1_epi32(1));
    const __m512 sum = _mm512_fmadd_ps(_mm512_maskz_cvtepi32_ps(0xFFFF, odd), unit_, integers);
    return _mm512_sub_epi32(_mm512_castps_si512(sum), _mm512_castps_si512(integers));
  }

  __m128i bits_;
  __m512i low_factors_;
  __m512i high_factors_;
  __m512i low_constant_;
  __m512i high_constant_;
  __m512i low_mask_;
  __m512 unit_;
  __m512i zero_point_;
  __m512i clamp_min_;
  __m512i clamp_max_;
};

template <bool repeats_b>
void sum_run(const SplitSums& shared, const uint8_t* a, const uint8_t* b, uint8_t* output, int64_t count) {
  const SplitSums sums = shared;  // a copy of its own, so that the compiler sees that no store changes it
  const __m512i repeated = _mm512_set1_epi8(static_cast<char>(*b));
  int64_t i = 0;
  for (; i + 64 <= count; i += 64) {
    avx512vnni::store(output + i, sums.codes(avx512vnni::load(a + i), repeats_b ? repeated : avx512vnni::load(b + i)));
  }
  if (i < count) {
    const __mmask64 rest = (uint64_t{1} << (count - i)) - 1;
    const __m512i b_codes = repeats_b ? repeated : _mm512_maskz_loadu_epi8(rest, b + i);
    _mm512_mask_storeu_epi8(output + i, rest, sums.codes(_mm512_maskz_loadu_epi8(rest, a + i), b_codes));
  }
}

}  // namespace

void bilinear_sum_avx512(const BilinearProblem& problem, const BilinearArguments& arguments, Range items) {
  const SplitSums sums(problem);
  const auto run = arguments.b_channel_stride == 0 ? sum_run<true> : sum_run<false>;
  for_each_bilinear_run(arguments, items, [&](const uint8_t* a, const uint8_t* b, uint8_t* output, int64_t count) {
    run(sums, a, b, output, count);
  });
}

}  // namespace qstep::kernels
QSTEP_AVX512VNNI_END
#endif
