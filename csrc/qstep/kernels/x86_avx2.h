#pragma once
// What the AVX2 files share. AVX2 code lives between QSTEP_AVX2_BEGIN and QSTEP_AVX2_END instead of in files compiled
// with -mavx2: there, an inline function of the standard library compiled with AVX2 may be the copy that the linker
// keeps for all.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__clang__)
#define QSTEP_AVX2_BEGIN _Pragma("clang attribute push(__attribute__((target(\"avx2,fma\"))), apply_to = function)")
#define QSTEP_AVX2_END _Pragma("clang attribute pop")
#else
#define QSTEP_AVX2_BEGIN _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma\")")
#define QSTEP_AVX2_END _Pragma("GCC pop_options")
#endif

QSTEP_AVX2_BEGIN
namespace qstep::kernels::avx2 {

#define QSTEP_INLINE __attribute__((always_inline))
#define QSTEP_NOINLINE __attribute__((noinline))

template <class Body, int... I>
QSTEP_INLINE inline void unroll_sequence(Body& body, std::integer_sequence<int, I...>) {
  (body(std::integral_constant<int, I>{}), ...);
}

/// body(0), ..., body(Count - 1) with constant arguments. gcc 12 keeps an array of vectors in registers only where
/// every index is a constant expression; under "#pragma GCC unroll" it stores each accumulator to the stack in each
/// step. Mark the body QSTEP_INLINE.
template <int Count, class Body>
QSTEP_INLINE inline void unroll(Body body) {
  unroll_sequence(body, std::make_integer_sequence<int, Count>{});
}

/// body(value) with a constant argument; value in [1, largest].
template <int largest, class Body>
QSTEP_INLINE inline void with_constant(int value, Body body) {
  if constexpr (largest > 1) {
    if (value < largest) return with_constant<largest - 1>(value, body);
  }
  body(std::integral_constant<int, largest>{});
}

/// Costs nothing and says that x is in a register here. gcc 12 keeps its choice through a loop, where it may else hold
/// half of the accumulators on the stack.
QSTEP_INLINE inline void keep_in_register(__m256i& x) {
  __m256i kept = x;  // x itself, an element of an array, would be an operand in memory
  asm("" : "+x"(kept));
  x = kept;
}

/// sum += x, in the register that holds `sum`: kept there as above, but without the moves between registers that gcc 12
/// adds to every other sum of a loop, and that cost the cycles in which products could begin.
QSTEP_INLINE inline void add_int32(__m256i& sum, __m256i x) {
  __m256i kept = sum;
  asm("vpaddd %1, %0, %0" : "+x"(kept) : "x"(x));
  sum = kept;
}
QSTEP_INLINE inline void add_int16(__m256i& sum, __m256i x) {
  __m256i kept = sum;
  asm("vpaddw %1, %0, %0" : "+x"(kept) : "x"(x));
  sum = kept;
}

QSTEP_INLINE inline __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
QSTEP_INLINE inline void store(void* p, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
QSTEP_INLINE inline __m128i load_half(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
QSTEP_INLINE inline void store_half(void* p, __m128i x) { _mm_storeu_si128(static_cast<__m128i*>(p), x); }

/// Four bytes in every 32-bit lane.
QSTEP_INLINE inline __m256i broadcast_4_bytes(const void* p) {
  int32_t bytes;
  std::memcpy(&bytes, p, sizeof bytes);
  return _mm256_set1_epi32(bytes);
}

/// Asks for the weights that a product of few rows will read. One stream of them is faster than the CPU foresees.
QSTEP_INLINE inline void prefetch_weights(const void* weights) {
  constexpr int64_t distance = 8192;
  _mm_prefetch(static_cast<const char*>(weights) + distance, _MM_HINT_T0);
}

/// Sixteen int32 in [-32768, 32767] as codes: + zero_point, in order. The sums lie in [0, 255].
QSTEP_INLINE inline __m128i pack_codes(__m128i x0, __m128i x1, __m128i x2, __m128i x3, __m128i zero_point_16) {
  const __m128i low = _mm_add_epi16(_mm_packs_epi32(x0, x1), zero_point_16);
  const __m128i high = _mm_add_epi16(_mm_packs_epi32(x2, x3), zero_point_16);
  return _mm_packus_epi16(low, high);
}

}  // namespace qstep::kernels::avx2
QSTEP_AVX2_END
#endif
