#pragma once
// What the AVX-512 VNNI and the AVX-VNNI files share. Their code lies between QSTEP_AVX512VNNI_BEGIN and
// QSTEP_AVX512VNNI_END, or QSTEP_AVXVNNI_BEGIN and QSTEP_AVXVNNI_END, for the reason in x86_avx2.h.
#if defined(__x86_64__)
#include "qstep/kernels/x86_avx2.h"

#if defined(__clang__)
#define QSTEP_AVX512VNNI_BEGIN                                                                                     \
  _Pragma(                                                                                                         \
      "clang attribute push(__attribute__((target(\"avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni\"))), " \
      "apply_to = function)")
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
#endif
