#pragma once
// The two 16-bit floating types as bits, for code that knows no torch. Conversions are branch-free integer
// arithmetic, which compilers vectorise on every CPU and which gives the same bits on host and device: to float
// exactly, from float rounded half to even, overflow to infinity, NaN to a quiet NaN.
#include <cstdint>

#include "qstep/core/platform.h"

namespace qstep::methods {

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

/// The type that arithmetic on T runs in: float for the 16-bit types, else T itself.
template <class T>
struct ComputeType {
  using type = T;
};
template <>
struct ComputeType<BFloat16> {
  using type = float;
};
template <>
struct ComputeType<Float16> {
  using type = float;
};
template <class T>
using Compute = typename ComputeType<T>::type;

QSTEP_HOST_DEVICE uint32_t float_bits(float x) { return __builtin_bit_cast(uint32_t, x); }
QSTEP_HOST_DEVICE float float_from_bits(uint32_t bits) { return __builtin_bit_cast(float, bits); }

QSTEP_HOST_DEVICE float load(float x) { return x; }
QSTEP_HOST_DEVICE double load(double x) { return x; }

QSTEP_HOST_DEVICE float load(BFloat16 x) { return float_from_bits(uint32_t{x.bits} << 16); }

QSTEP_HOST_DEVICE float load(Float16 x) {
  const uint32_t sign = (uint32_t{x.bits} & 0x8000U) << 16;
  const uint32_t magnitude = (uint32_t{x.bits} & 0x7FFFU)
                             << 13;  // exponent and mantissa at float's place, bias not yet float's
  const uint32_t normal = magnitude + (112U << 23);
  const uint32_t special = magnitude + (224U << 23);  // exponent 31 becomes 255: infinities and NaN
  // A subnormal half is m * 2^-24: set the exponent of 2^-14 under the mantissa, then take 2^-14 away again.
  const uint32_t subnormal = float_bits(float_from_bits(magnitude + (113U << 23)) - 0x1p-14F);
  const uint32_t finite = magnitude < (1U << 23) ? subnormal : normal;
  return float_from_bits(sign | (magnitude >= (31U << 23) ? special : finite));
}

QSTEP_HOST_DEVICE void store(float value, float& target) { target = value; }
QSTEP_HOST_DEVICE void store(double value, double& target) { target = value; }

QSTEP_HOST_DEVICE void store(float value, BFloat16& target) {
  const uint32_t bits = float_bits(value);
  const uint32_t rounded = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
  const bool is_nan = (bits & 0x7FFFFFFFU) > 0x7F800000U;
  target.bits = static_cast<uint16_t>(is_nan ? 0x7FC0U : rounded);
}

QSTEP_HOST_DEVICE void store(float value, Float16& target) {
  const uint32_t bits = float_bits(value);
  const uint32_t sign = (bits >> 16) & 0x8000U;
  const uint32_t magnitude = bits & 0x7FFFFFFFU;
  const uint32_t normal = (magnitude - (112U << 23) + 0xFFFU + ((magnitude >> 13) & 1U)) >> 13;
  // Below 2^-14 the step is 2^-24, which is also the step of floats in [0.5, 1): one addition rounds.
  const uint32_t subnormal = float_bits(float_from_bits(magnitude) + 0.5F) - float_bits(0.5F);
  const uint32_t finite = magnitude < float_bits(0x1p-14F) ? subnormal : normal;
  const uint32_t overflow = magnitude > 0x7F800000U ? 0x7E00U : 0x7C00U;
  target.bits = static_cast<uint16_t>(sign | (magnitude >= float_bits(65520.0F) ? overflow : finite));
}

}  // namespace qstep::methods
