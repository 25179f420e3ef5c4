#pragma once
// What the AVX-512 VNNI and the AVX-VNNI files share. Their code lies between QSTEP_AVX512VNNI_BEGIN and
// QSTEP_AVX512VNNI_END, or QSTEP_AVXVNNI_BEGIN and QSTEP_AVXVNNI_END, for the reason in x86_avx2.h.
#if defined(__x86_64__)
#include "qstep/kernels/x86_avx2.h"

#if defined(__clang__)
#define QSTEP_AVX512VNNI_BEGIN \
  _Pragma(                     \
      "clang attribute push(__attribute__((target(\"avx512bw,avx512dq,avx512vl,avx512vnni\"))), apply_to = function)")
#define QSTEP_AVX512VNNI_END _Pragma("clang attribute pop")
#define QSTEP_AVXVNNI_BEGIN \
  _Pragma("clang attribute push(__attribute__((target(\"avx2,fma,avxvnni\"))), apply_to = function)")
#define QSTEP_AVXVNNI_END _Pragma("clang attribute pop")
#else
#define QSTEP_AVX512VNNI_BEGIN \
  _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni\")")
#define QSTEP_AVX512VNNI_END _Pragma("GCC pop_options")
#define QSTEP_AVXVNNI_BEGIN _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma,avxvnni\")")
#define QSTEP_AVXVNNI_END _Pragma("GCC pop_options")
#endif

QSTEP_AVX512VNNI_BEGIN
namespace qstep::kernels::avx512vnni {

// unroll and keep_in_register are those of x86_avx2.h. They are here again because a function for AVX2 alone may not
// inline a body for AVX-512.

template <class Body, int... I>
QSTEP_INLINE inline void unroll_sequence(Body& body, std::integer_sequence<int, I...>) {
  (body(std::integral_constant<int, I>{}), ...);
}

template <int Count, class Body>
QSTEP_INLINE inline void unroll(Body body) {
  unroll_sequence(body, std::make_integer_sequence<int, Count>{});
}

template <class Vector>
QSTEP_INLINE inline void keep_in_register(Vector& x) {
  asm("" : "+v"(x));
}

QSTEP_INLINE inline __m512i load(const void* p) { return _mm512_loadu_si512(p); }
QSTEP_INLINE inline void store(void* p, __m512i x) { _mm512_storeu_si512(p, x); }

/// Four bytes in every 32-bit lane.
QSTEP_INLINE inline __m512i broadcast_4_bytes(const void* p) {
  int32_t bytes;
  std::memcpy(&bytes, p, sizeof bytes);
  return _mm512_set1_epi32(bytes);
}

}  // namespace qstep::kernels::avx512vnni
QSTEP_AVX512VNNI_END
#endif
