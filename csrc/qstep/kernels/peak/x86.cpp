#include <utility>

#include "qstep/kernels/peak/kernels.h"
#include "qstep/kernels/x86_avx512.h"

#if defined(__x86_64__)
// The instructions are written down, so that no compiler finds products that it knows or moves sums to the stack.
QSTEP_AVX2_BEGIN
namespace qstep::kernels {
namespace {

QSTEP_INLINE inline void add_products_avx2(__m256i& sum, __m256i codes, __m256i weights) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i products;
  asm volatile("vpmaddubsw %2, %3, %1; vpmaddwd %4, %1, %1; vpaddd %1, %0, %0"
               : "+x"(sum), "=&x"(products)
               : "x"(weights), "x"(codes), "x"(ones));
}

template <int... I>
int32_t add_up_avx2(int64_t rounds, std::integer_sequence<int, I...>) {
  __m256i sums[] = {_mm256_set1_epi32(I)...};
  const __m256i codes = _mm256_set1_epi8(3);
  const __m256i weights = _mm256_set1_epi8(-5);
  for (; rounds > 0; --rounds) (add_products_avx2(sums[I], codes, weights), ...);
  __m256i all = codes;
  ((all = _mm256_add_epi32(all, sums[I])), ...);
  return _mm256_cvtsi256_si32(all);
}

}  // namespace

int32_t peak_avx2(int64_t rounds) { return add_up_avx2(rounds, std::make_integer_sequence<int, peak_sums>{}); }

}  // namespace qstep::kernels
QSTEP_AVX2_END

QSTEP_AVXVNNI_BEGIN
namespace qstep::kernels {
namespace {

QSTEP_INLINE inline void add_products_avxvnni(__m256i& sum, __m256i codes, __m256i weights) {
  asm volatile("%{vex%} vpdpbusd %1, %2, %0" : "+x"(sum) : "x"(weights), "x"(codes));
}

template <int... I>
int32_t add_up_avxvnni(int64_t rounds, std::integer_sequence<int, I...>) {
  __m256i sums[] = {_mm256_set1_epi32(I)...};
  const __m256i codes = _mm256_set1_epi8(3);
  const __m256i weights = _mm256_set1_epi8(-5);
  for (; rounds > 0; --rounds) (add_products_avxvnni(sums[I], codes, weights), ...);
  __m256i all = codes;
  ((all = _mm256_add_epi32(all, sums[I])), ...);
  return _mm256_cvtsi256_si32(all);
}

}  // namespace

int32_t peak_avxvnni(int64_t rounds) { return add_up_avxvnni(rounds, std::make_integer_sequence<int, peak_sums>{}); }

}  // namespace qstep::kernels
QSTEP_AVXVNNI_END

QSTEP_AVX512VNNI_BEGIN
namespace qstep::kernels {
namespace {

QSTEP_INLINE inline void add_products_avx512vnni(__m512i& sum, __m512i codes, __m512i weights) {
  asm volatile("vpdpbusd %1, %2, %0" : "+v"(sum) : "v"(weights), "v"(codes));
}

template <int... I>
int32_t add_up_avx512vnni(int64_t rounds, std::integer_sequence<int, I...>) {
  __m512i sums[] = {_mm512_set1_epi32(I)...};
  const __m512i codes = _mm512_set1_epi8(3);
  const __m512i weights = _mm512_set1_epi8(-5);
  for (; rounds > 0; --rounds) (add_products_avx512vnni(sums[I], codes, weights), ...);
  __m512i all = codes;
  ((all = _mm512_add_epi32(all, sums[I])), ...);
  return _mm512_cvtsi512_si32(all);
}

}  // namespace

int32_t peak_avx512vnni(int64_t rounds) {
  return add_up_avx512vnni(rounds, std::make_integer_sequence<int, peak_sums>{});
}

}  // namespace qstep::kernels
QSTEP_AVX512VNNI_END
#endif
