#include "qstep/kernels/elementwise/floor_sum.h"
#include "qstep/kernels/elementwise/kernels.h"
#include "qstep/kernels/elementwise/runs.h"
#include "qstep/kernels/elementwise/split_sum.h"
#include "qstep/kernels/x86_avx512.h"

#if defined(__x86_64__)
QSTEP_AVX512VNNI_BEGIN
namespace qstep::kernels {
namespace {

using Vector = __m512i;

QSTEP_INLINE inline Vector repeat_8(int32_t x) { return _mm512_set1_epi8(static_cast<char>(x)); }
QSTEP_INLINE inline Vector repeat_16(int32_t x) { return _mm512_set1_epi16(static_cast<int16_t>(x)); }
QSTEP_INLINE inline Vector repeat_32(int32_t x) { return _mm512_set1_epi32(x); }
QSTEP_INLINE inline Vector unpack_low(Vector a, Vector b) { return _mm512_unpacklo_epi8(a, b); }
QSTEP_INLINE inline Vector unpack_high(Vector a, Vector b) { return _mm512_unpackhi_epi8(a, b); }
QSTEP_INLINE inline Vector pack_words(Vector a, Vector b) { return _mm512_packs_epi32(a, b); }
QSTEP_INLINE inline Vector pack_bytes(Vector a, Vector b) { return _mm512_packus_epi16(a, b); }
QSTEP_INLINE inline Vector add_saturating_16(Vector a, Vector b) { return _mm512_adds_epi16(a, b); }
QSTEP_INLINE inline Vector add_32(Vector a, Vector b) { return _mm512_add_epi32(a, b); }
QSTEP_INLINE inline Vector clamp_8(Vector x, Vector low, Vector high) {
  return _mm512_min_epu8(_mm512_max_epu8(x, low), high);
}
QSTEP_INLINE inline Vector add_products(Vector sum, Vector pairs, Vector factors) {
  return _mm512_dpwssd_epi32(sum, pairs, factors);
}
// The forms with a mask of all lanes: gcc 12 warns of an operand that is not initialized inside the others.
QSTEP_INLINE inline Vector shift_right(Vector x, Vector counts) { return _mm512_maskz_srlv_epi32(0xFFFF, x, counts); }
QSTEP_INLINE inline Vector shift_right_signed(Vector x, Vector counts) {
  return _mm512_maskz_srav_epi32(0xFFFF, x, counts);
}
QSTEP_INLINE inline Vector sticky(Vector x, Vector rest) {
  return _mm512_mask_or_epi32(x, _mm512_test_epi32_mask(rest, rest), x, repeat_32(1));
}
QSTEP_INLINE inline Vector round_product(Vector x, float unit) {
  const __m512 integers = _mm512_set1_ps(0x1.8p23F);
  const __m512 sum = _mm512_fmadd_ps(_mm512_maskz_cvtepi32_ps(0xFFFF, x), _mm512_set1_ps(unit), integers);
  return _mm512_sub_epi32(_mm512_castps_si512(sum), _mm512_castps_si512(integers));
}

#include "qstep/kernels/elementwise/bilinear_x86_sums.inc"

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
