#pragma once
// F8Net's fixed-point quantization for one element, and its rule for the format, on host and device.
//
//   x_hat = clamp(round(x * 2^FL), quant_min, quant_max) * 2^-FL         FL: fraction length, WL: word length
//   signed   codes -(2^(WL-1) - 1) .. 2^(WL-1) - 1      FL in [0, WL - 1]
//   unsigned codes 0 .. 2^WL - 1                        FL in [0, WL]
//
// Source: Jin et al., F8Net: Fixed-Point 8-bit Only Multiplication for Network Quantization, ICLR 2022. NaN gives NaN and
// lets the gradient pass; zero comes out as +0.
#include <cstdint>

#include "qstep/core/grid.h"
#include "qstep/core/platform.h"
#include "qstep/core/rounding.h"

namespace qstep::methods::f8net {

/// Where the straight-through gradient passes: for codes v = x * 2^FL strictly inside the range (pact), or for rounded
/// codes strictly inside, as the official implementation has it (reference): then the first half step above 0 and the
/// last one below the largest code get none.
enum class Mask : uint8_t { pact, reference };

/// A fixed-point format in the type F that the arithmetic runs in. scale is a power of two, so that division by it and
/// multiplication with it are exact.
template <class F>
struct Format {
  F scale;
  F quant_min;
  F quant_max;
};

QSTEP_HOST_DEVICE constexpr int32_t largest_code(int32_t word_length, bool is_signed) {
  return (1 << (is_signed ? word_length - 1 : word_length)) - 1;
}

QSTEP_HOST_DEVICE constexpr int32_t largest_fraction_length(int32_t word_length, bool is_signed) {
  return is_signed ? word_length - 1 : word_length;
}

template <class F>
QSTEP_HOST_DEVICE Format<F> format_of(int32_t fraction_length, int32_t word_length, bool is_signed) {
  const F limit = static_cast<F>(largest_code(word_length, is_signed));
  return {F(1) / static_cast<F>(1 << fraction_length), is_signed ? -limit : F(0), limit};
}

template <class F>
QSTEP_HOST_DEVICE F fixed_point(F x, const Format<F>& format) {
  const F code = core::round_half_even(x / format.scale) + F(0);  // -0 + 0 = +0
  return core::clamp(code, format.quant_min, format.quant_max) * format.scale;
}

template <Mask mask, class F>
QSTEP_HOST_DEVICE F gradient(F x, F grad_output, const Format<F>& format) {
  F v = x / format.scale;
  if constexpr (mask == Mask::reference) v = core::round_half_even(v);
  return (v <= format.quant_min) | (v >= format.quant_max) ? F(0) : grad_output;
}

/// FL = f where C / 2^(f+1) < sd <= C / 2^f, clamped to the formats of word length 8: C is this constant, for the
/// standard deviation sd of a tensor (signed), or of the Gaussian that was rectified to it (unsigned).
QSTEP_HOST_DEVICE constexpr double rule_constant(bool is_signed) { return is_signed ? 40.0 : 70.0; }

}  // namespace qstep::methods::f8net
