#include "qstep/kernels/elementwise/floor_sum.h"
#include "qstep/kernels/elementwise/kernels.h"
#include "qstep/kernels/elementwise/runs.h"
#include "qstep/kernels/elementwise/split_sum.h"
#include "qstep/kernels/x86_avx512.h"

#if defined(__x86_64__)
QSTEP_AVX512VNNI_BEGIN
namespace qstep::kernels {
namespace {

/// An addition by a Sum, which makes steps of sixteen pairs (a, b) of int16.
template <class Sum>
struct PairSums {
  Sum sum;
  __m512i zero_point;
  __m512i clamp_min;
  __m512i clamp_max;

  explicit PairSums(const BilinearProblem& p)
      : sum(p),
        zero_point(_mm512_set1_epi16(static_cast<int16_t>(p.zero_point))),
        clamp_min(_mm512_set1_epi8(static_cast<char>(p.clamp_min))),
        clamp_max(_mm512_set1_epi8(static_cast<char>(p.clamp_max))) {}

  QSTEP_INLINE __m512i codes(__m512i a, __m512i b) const {
    const __m512i bytes = _mm512_packus_epi16(words(_mm512_unpacklo_epi8(a, b)), words(_mm512_unpackhi_epi8(a, b)));
    return _mm512_min_epu8(_mm512_max_epu8(bytes, clamp_min), clamp_max);
  }

  /// Of the pairs of bytes in each lane, in order.
  QSTEP_INLINE __m512i words(__m512i ab) const {
    const __m512i zero = _mm512_setzero_si512();
    const __m512i low = sum.steps(_mm512_unpacklo_epi8(ab, zero));
    const __m512i high = sum.steps(_mm512_unpackhi_epi8(ab, zero));
    return _mm512_adds_epi16(_mm512_packs_epi32(low, high), zero_point);
  }
};

/// SumParts, sixteen at a time.
struct Parts {
  __m128i bits;
  __m512i low_factors;
  __m512i high_factors;
  __m512i low_constant;
  __m512i high_constant;

  explicit Parts(const SumParts& parts)
      : bits(_mm_cvtsi32_si128(parts.bits)),
        low_factors(_mm512_set1_epi32(parts.low_factors)),
        high_factors(_mm512_set1_epi32(parts.high_factors)),
        low_constant(_mm512_set1_epi32(parts.low_constant)),
        high_constant(_mm512_set1_epi32(parts.high_constant)) {}

  QSTEP_INLINE __m512i low(__m512i ab) const { return _mm512_dpwssd_epi32(low_constant, ab, low_factors); }
  QSTEP_INLINE __m512i high(__m512i ab, __m512i low) const {
    const __m512i carried = _mm512_add_epi32(high_constant, _mm512_maskz_srl_epi32(0xFFFF, low, bits));
    return _mm512_dpwssd_epi32(carried, ab, high_factors);
  }
};

class SplitSums {
 public:
  explicit SplitSums(const BilinearProblem& p) : SplitSums(SplitSum(p)) {}

  QSTEP_INLINE __m512i steps(__m512i ab) const {
    const __m512 integers = _mm512_set1_ps(0x1.8p23F);
    const __m512i low = parts_.low(ab);
    const __m512i high = parts_.high(ab, low);
    const __mmask16 has_rest = _mm512_test_epi32_mask(low, low_mask_);
    const __m512i odd = _mm512_mask_or_epi32(high, has_rest, high, _mm512_set1_epi32(1));
    const __m512 sum = _mm512_fmadd_ps(_mm512_maskz_cvtepi32_ps(0xFFFF, odd), unit_, integers);
    return _mm512_sub_epi32(_mm512_castps_si512(sum), _mm512_castps_si512(integers));
  }

 private:
  explicit SplitSums(const SplitSum& sum)
      : parts_(sum), low_mask_(_mm512_set1_epi32((1 << sum.bits) - 1)), unit_(_mm512_set1_ps(sum.unit)) {}

  Parts parts_;
  __m512i low_mask_;
  __m512 unit_;
};

class FloorSums {
 public:
  explicit FloorSums(const BilinearProblem& p) : FloorSums(FloorSum(p)) {}

  QSTEP_INLINE __m512i steps(__m512i ab) const {
    return _mm512_maskz_sra_epi32(0xFFFF, parts_.high(ab, parts_.low(ab)), shift_);
  }

 private:
  explicit FloorSums(const FloorSum& sum) : parts_(sum), shift_(_mm_cvtsi32_si128(sum.shift)) {}

  Parts parts_;
  __m128i shift_;
};

class NarrowSums {
 public:
  explicit NarrowSums(const BilinearProblem& p) : NarrowSums(NarrowSum(p)) {}

  QSTEP_INLINE __m512i steps(__m512i ab) const {
    return _mm512_maskz_sra_epi32(0xFFFF, _mm512_dpwssd_epi32(constant_, ab, factors_), shift_);
  }

 private:
  explicit NarrowSums(const NarrowSum& sum)
      : factors_(_mm512_set1_epi32(sum.factors)),
        constant_(_mm512_set1_epi32(sum.constant)),
        shift_(_mm_cvtsi32_si128(sum.shift)) {}

  __m512i factors_;
  __m512i constant_;
  __m128i shift_;
};

template <bool repeats_b, class Sums>
void sum_run(const Sums& shared, const uint8_t* a, const uint8_t* b, uint8_t* output, int64_t count) {
  const Sums sums = shared;  // a copy of its own, so that the compiler sees that no store changes it
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

template <class Sum>
void bilinear(const BilinearProblem& problem, const BilinearArguments& arguments, Range items) {
  using Sums = PairSums<Sum>;
  const Sums sums(problem);
  const auto run = arguments.b_channel_stride == 0 ? sum_run<true, Sums> : sum_run<false, Sums>;
  for_each_bilinear_run(arguments, items, [&](const uint8_t* a, const uint8_t* b, uint8_t* output, int64_t count) {
    run(sums, a, b, output, count);
  });
}

}  // namespace

void bilinear_sum_avx512(const BilinearProblem& problem, const BilinearArguments& arguments, Range items) {
  bilinear<SplitSums>(problem, arguments, items);
}

void bilinear_floor_avx512(const BilinearProblem& problem, const BilinearArguments& arguments, Range items) {
  bilinear<FloorSums>(problem, arguments, items);
}

void bilinear_narrow_avx512(const BilinearProblem& problem, const BilinearArguments& arguments, Range items) {
  bilinear<NarrowSums>(problem, arguments, items);
}

}  // namespace qstep::kernels
QSTEP_AVX512VNNI_END
#endif
