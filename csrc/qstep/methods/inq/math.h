#pragma once
// INQ's power-of-two quantization for one weight, and its exponents for a range, on host and device.
//
//   P = {0, +-2^n2, ..., +-2^n1}      n1 = floor(log2(4 s / 3)), s = max|w|      n2 = n1 + 1 - 2^(bit_width - 2)
//   w_hat = sign(w) * beta where (alpha + beta) / 2 <= |w| < 3 beta / 2, for neighbours alpha < beta of P; else 0
//
// The midpoint of 2^(k-1) and 2^k is 1.5 * 2^(k-1), so beta follows from the exponent of |w| and the first bit of its
// mantissa, without a logarithm that could round. Beyond 1.5 * 2^n1 the largest magnitude stays (the rule itself says 0
// there, which no weight of the tensor that defined s can reach).
//
// Source: Zhou et al., Incremental Network Quantization, ICLR 2017, eq. 1 to 4. NaN gives NaN.
#include <cmath>
#include <cstdint>

#include "qstep/core/grid.h"
#include "qstep/core/platform.h"
#include "qstep/methods/half_types.h"

namespace qstep::methods::inq {

inline constexpr int32_t min_bit_width = 2;
inline constexpr int32_t max_bit_width = 5;

/// Positive values of P.
QSTEP_HOST_DEVICE constexpr int32_t magnitudes(int32_t bit_width) { return int32_t{1} << (bit_width - 2); }

/// n2, the exponent of the smallest positive value of P.
QSTEP_HOST_DEVICE constexpr int32_t smallest_exponent(int32_t n1, int32_t bit_width) {
  return n1 + 1 - magnitudes(bit_width);
}

/// Exponents of the powers of two that a type holds and that the arithmetic on it, which runs in Compute<T>, has as normal
/// numbers.
struct ExponentRange {
  int32_t lowest;
  int32_t highest;
};
template <class T>
inline constexpr ExponentRange exponents_of{-126, 127};  // float, BFloat16
template <>
inline constexpr ExponentRange exponents_of<double>{-1022, 1023};
template <>
inline constexpr ExponentRange exponents_of<Float16>{-24, 15};

/// The n1 with which all of P and its smallest threshold, 2^(n2 - 1), are such powers of two.
constexpr ExponentRange allowed_n1(ExponentRange type, int32_t bit_width) {
  return {type.lowest + magnitudes(bit_width), type.highest};
}

/// n1 = floor(log2(4 s / 3)), exactly, moved into `allowed`; 0 where s = 0. s is finite and not negative.
inline int32_t largest_exponent(double s, ExponentRange allowed) {
  if (s == 0.0) return 0;
  int exponent = 0;
  const double mantissa = std::frexp(s, &exponent);  // s = mantissa * 2^exponent, 1/2 <= mantissa < 1
  const int32_t n1 = mantissa >= 0.75 ? exponent : exponent - 1;
  return n1 < allowed.lowest ? allowed.lowest : n1 > allowed.highest ? allowed.highest : n1;
}

/// A floating type as bits.
template <class F>
struct Format;
template <>
struct Format<float> {
  using Bits = uint32_t;
  static constexpr int mantissa_bits = 23;
  static constexpr int bias = 127;
};
template <>
struct Format<double> {
  using Bits = uint64_t;
  static constexpr int mantissa_bits = 52;
  static constexpr int bias = 1023;
};

/// 2^exponent, for the exponents of normal numbers.
template <class F>
QSTEP_HOST_DEVICE F power_of_two(int32_t exponent) {
  using Bits = typename Format<F>::Bits;
  return __builtin_bit_cast(F, static_cast<Bits>(exponent + Format<F>::bias) << Format<F>::mantissa_bits);
}

/// The power of two nearest to a normal number above 0, midpoints to the larger; infinity above the largest power.
template <class F>
QSTEP_HOST_DEVICE F nearest_power(F magnitude) {
  using Bits = typename Format<F>::Bits;
  constexpr Bits half = Bits{1} << (Format<F>::mantissa_bits - 1);
  constexpr Bits exponent_mask = (Bits{1} << (sizeof(F) * 8 - 1)) - (Bits{1} << Format<F>::mantissa_bits);
  return __builtin_bit_cast(F, (__builtin_bit_cast(Bits, magnitude) + half) & exponent_mask);
}

/// What a weight is compared with, in the type F that the arithmetic runs in.
template <class F>
struct Levels {
  F threshold;  ///< 2^(n2 - 1): smaller magnitudes become 0
  F smallest;   ///< 2^n2
  F largest;    ///< 2^n1
};

template <class F>
QSTEP_HOST_DEVICE Levels<F> levels_of(int32_t n1, int32_t bit_width) {
  const int32_t n2 = smallest_exponent(n1, bit_width);
  return {power_of_two<F>(n2 - 1), power_of_two<F>(n2), power_of_two<F>(n1)};
}

/// w_hat. Zero comes out as +0, NaN as NaN.
template <class F>
QSTEP_HOST_DEVICE F quantize(F w, const Levels<F>& levels) {
  const F magnitude = w < F(0) ? -w : w;
  const F power = core::clamp(nearest_power(magnitude), levels.smallest, levels.largest);
  const F level = magnitude < levels.threshold ? F(0) : power;
  const F value = w < F(0) ? F(0) - level : level;
  return w == w ? value : w;
}

}  // namespace qstep::methods::inq
