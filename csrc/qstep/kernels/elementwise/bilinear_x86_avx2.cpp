#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "qstep/kernels/elementwise/floor_sum.h"
#include "qstep/kernels/elementwise/kernels.h"
#include "qstep/kernels/elementwise/runs.h"
#include "qstep/kernels/elementwise/split_sum.h"
#include "qstep/kernels/x86_avx2.h"
#include "qstep/kernels/x86_avx2_shift.h"

#if defined(__x86_64__)
QSTEP_AVX2_BEGIN
namespace qstep::kernels {
namespace {

using namespace avx2;

/// BilinearProblem in doubles: every value before the division by 2^shift is an integer below 2^53, that division only
/// moves the exponent, and the conversion to int32 is the one rounding.
template <bool multiplies>
struct Bilinear {
  __m256d product;
  __m256d left;
  __m256d right;
  __m256d constant;
  __m256d unit;  // 2^-shift
  __m256d low;
  __m256d high;
  __m128i zero_code_a;
  __m128i zero_code_b;
  __m128i zero_point;

  explicit Bilinear(const BilinearProblem& p)
      : product(_mm256_set1_pd(static_cast<double>(p.product))),
        left(_mm256_set1_pd(static_cast<double>(p.left))),
        right(_mm256_set1_pd(static_cast<double>(p.right))),
        constant(_mm256_set1_pd(static_cast<double>(p.constant))),
        unit(_mm256_set1_pd(std::ldexp(1.0, -p.shift))),
        low(_mm256_set1_pd(p.clamp_min - p.zero_point)),
        high(_mm256_set1_pd(p.clamp_max - p.zero_point)),
        zero_code_a(_mm_set1_epi32(p.zero_code_a)),
        zero_code_b(_mm_set1_epi32(p.zero_code_b)),
        zero_point(_mm_set1_epi16(static_cast<int16_t>(p.zero_point))) {}

  QSTEP_INLINE static __m256d centred(__m128i codes, __m128i zero_code) {
    return _mm256_cvtepi32_pd(_mm_sub_epi32(_mm_cvtepu8_epi32(codes), zero_code));
  }

  /// The low four bytes of each.
  QSTEP_INLINE __m128i four(__m128i a_codes, __m128i b_codes) const {
    const __m256d a = centred(a_codes, zero_code_a);
    const __m256d b = centred(b_codes, zero_code_b);
    __m256d t = _mm256_add_pd(_mm256_add_pd(_mm256_mul_pd(left, a), _mm256_mul_pd(right, b)), constant);
    if constexpr (multiplies) t = _mm256_add_pd(t, _mm256_mul_pd(product, _mm256_mul_pd(a, b)));
    return _mm256_cvtpd_epi32(_mm256_min_pd(_mm256_max_pd(_mm256_mul_pd(t, unit), low), high));
  }

  QSTEP_INLINE __m256i codes(__m256i a, __m256i b) const {
    return _mm256_set_m128i(sixteen(_mm256_extracti128_si256(a, 1), _mm256_extracti128_si256(b, 1)),
                            sixteen(_mm256_castsi256_si128(a), _mm256_castsi256_si128(b)));
  }

  QSTEP_INLINE __m128i sixteen(__m128i a, __m128i b) const {
    return pack_codes(four(a, b), four(_mm_srli_si128(a, 4), _mm_srli_si128(b, 4)),
                      four(_mm_srli_si128(a, 8), _mm_srli_si128(b, 8)),
                      four(_mm_srli_si128(a, 12), _mm_srli_si128(b, 12)), zero_point);
  }
};

/// The same for an addition of shifted operands, in int32: 255 * (2^22 + 2^22) < 2^31.
struct ShiftedSum {
  __m128i left;
  __m128i right;
  ShiftHalfEven rounded;
  Limits limits;
  __m256i zero_code_a;
  __m256i zero_code_b;
  __m128i zero_point;

  explicit ShiftedSum(const BilinearProblem& p)
      : left(_mm_cvtsi32_si128(std::countr_zero(static_cast<uint64_t>(p.left)))),
        right(_mm_cvtsi32_si128(std::countr_zero(static_cast<uint64_t>(p.right)))),
        rounded(p.shift),
        limits{_mm256_set1_epi32(p.clamp_min - p.zero_point), _mm256_set1_epi32(p.clamp_max - p.zero_point)},
        zero_code_a(_mm256_set1_epi32(p.zero_code_a)),
        zero_code_b(_mm256_set1_epi32(p.zero_code_b)),
        zero_point(_mm_set1_epi16(static_cast<int16_t>(p.zero_point))) {}

  /// The low eight bytes of each.
  QSTEP_INLINE __m256i eight(__m128i a_codes, __m128i b_codes) const {
    const __m256i a = _mm256_sub_epi32(_mm256_cvtepu8_epi32(a_codes), zero_code_a);
    const __m256i b = _mm256_sub_epi32(_mm256_cvtepu8_epi32(b_codes), zero_code_b);
    return limits(rounded(_mm256_add_epi32(_mm256_sll_epi32(a, left), _mm256_sll_epi32(b, right))));
  }

  QSTEP_INLINE __m256i codes(__m256i a, __m256i b) const {
    return _mm256_set_m128i(sixteen(_mm256_extracti128_si256(a, 1), _mm256_extracti128_si256(b, 1)),
                            sixteen(_mm256_castsi256_si128(a), _mm256_castsi256_si128(b)));
  }

  QSTEP_INLINE __m128i sixteen(__m128i a, __m128i b) const {
    const __m256i low = eight(a, b);
    const __m256i high = eight(_mm_srli_si128(a, 8), _mm_srli_si128(b, 8));
    return pack_codes(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1), _mm256_castsi256_si128(high),
                      _mm256_extracti128_si256(high, 1), zero_point);
  }
};

using Vector = __m256i;

QSTEP_INLINE inline Vector repeat_8(int32_t x) { return _mm256_set1_epi8(static_cast<char>(x)); }
QSTEP_INLINE inline Vector repeat_16(int32_t x) { return _mm256_set1_epi16(static_cast<int16_t>(x)); }
QSTEP_INLINE inline Vector repeat_32(int32_t x) { return _mm256_set1_epi32(x); }
QSTEP_INLINE inline Vector unpack_low(Vector a, Vector b) { return _mm256_unpacklo_epi8(a, b); }
QSTEP_INLINE inline Vector unpack_high(Vector a, Vector b) { return _mm256_unpackhi_epi8(a, b); }
QSTEP_INLINE inline Vector pack_words(Vector a, Vector b) { return _mm256_packs_epi32(a, b); }
QSTEP_INLINE inline Vector pack_bytes(Vector a, Vector b) { return _mm256_packus_epi16(a, b); }
QSTEP_INLINE inline Vector add_saturating_16(Vector a, Vector b) { return _mm256_adds_epi16(a, b); }
QSTEP_INLINE inline Vector add_32(Vector a, Vector b) { return _mm256_add_epi32(a, b); }
QSTEP_INLINE inline Vector clamp_8(Vector x, Vector low, Vector high) {
  return _mm256_min_epu8(_mm256_max_epu8(x, low), high);
}
QSTEP_INLINE inline Vector add_products(Vector sum, Vector pairs, Vector factors) {
  return _mm256_add_epi32(_mm256_madd_epi16(pairs, factors), sum);
}
QSTEP_INLINE inline Vector shift_right(Vector x, Vector counts) { return _mm256_srlv_epi32(x, counts); }
QSTEP_INLINE inline Vector shift_right_signed(Vector x, Vector counts) { return _mm256_srav_epi32(x, counts); }
QSTEP_INLINE inline Vector sticky(Vector x, Vector rest) {
  return _mm256_or_si256(x, _mm256_min_epu32(rest, repeat_32(1)));
}
QSTEP_INLINE inline Vector round_product(Vector x, float unit) {
  const __m256 integers = _mm256_set1_ps(0x1.8p23F);
  const __m256 sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(x), _mm256_set1_ps(unit), integers);
  return _mm256_sub_epi32(_mm256_castps_si256(sum), _mm256_castps_si256(integers));
}

#include "qstep/kernels/elementwise/bilinear_x86_sums.inc"

/// The first `count` bytes, count < 32.
__m256i load_part(const uint8_t* p, int64_t count) {
  alignas(32) uint8_t bytes[32] = {};
  std::memcpy(bytes, p, static_cast<size_t>(count));
  return load(bytes);
}

void store_part(uint8_t* p, __m256i x, int64_t count) {
  alignas(32) uint8_t bytes[32];
  store(bytes, x);
  std::memcpy(p, bytes, static_cast<size_t>(count));
}

template <bool repeats_b, class Arithmetic>
void bilinear_run(const Arithmetic& shared, const uint8_t* a, const uint8_t* b, uint8_t* output, int64_t count) {
  const Arithmetic arithmetic = shared;  // a copy of its own, so that the compiler sees that no store changes it
  const __m256i repeated = _mm256_set1_epi8(static_cast<char>(*b));
  int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    store(output + i, arithmetic.codes(load(a + i), repeats_b ? repeated : load(b + i)));
  }
  if (const int64_t rest = count - i; rest > 0) {
    store_part(output + i, arithmetic.codes(load_part(a + i, rest), repeats_b ? repeated : load_part(b + i, rest)),
               rest);
  }
}

template <class Arithmetic>
void bilinear(const Arithmetic& arithmetic, const BilinearArguments& arguments, Range items) {
  const auto run = arguments.b_channel_stride == 0 ? bilinear_run<true, Arithmetic> : bilinear_run<false, Arithmetic>;
  for_each_bilinear_run(arguments, items, [&](const uint8_t* a, const uint8_t* b, uint8_t* output, int64_t count) {
    run(arithmetic, a, b, output, count);
  });
}

}  // namespace

void bilinear_avx2(const BilinearProblem& problem, const BilinearArguments& arguments, Range items) {
  if (problem.product != 0) {
    bilinear(Bilinear<true>(problem), arguments, items);
  } else {
    bilinear(Bilinear<false>(problem), arguments, items);
  }
}

void bilinear_sum_avx2(const BilinearProblem& problem, const BilinearArguments& arguments, Range items) {
  bilinear(PairSums<SplitSums>(problem), arguments, items);
}

void bilinear_floor_avx2(const BilinearProblem& problem, const BilinearArguments& arguments, Range items) {
  bilinear(PairSums<FloorSums>(problem), arguments, items);
}

void bilinear_narrow_avx2(const BilinearProblem& problem, const BilinearArguments& arguments, Range items) {
  bilinear(PairSums<NarrowSums>(problem), arguments, items);
}

void bilinear_shift_avx2(const BilinearProblem& problem, const BilinearArguments& arguments, Range items) {
  bilinear(ShiftedSum(problem), arguments, items);
}

}  // namespace qstep::kernels
QSTEP_AVX2_END
#endif
