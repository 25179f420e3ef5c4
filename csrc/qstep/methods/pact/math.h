#pragma once
// PACT for one element, on host and device: a clipping level alpha is learned, and the range up to it is cut into levels.
//
//   scale = alpha / levels      v = x / scale      q = round_half_even(clamp(v, quant_min, levels))      x_hat = q * scale
//   one-sided:   levels = 2^b - 1        quant_min = 0
//   two-sided:   levels = 2^(b-1) - 1    quant_min = -levels
//
//   region                               d x_hat / dx    d x_hat / d alpha ("pact")    ("ste")
//   x >= alpha                           0               1                             1
//   0 <= x < alpha, or |x| < alpha       1               0                             (q - v) / levels
//   x < 0           or x <= -alpha       0               0, or -1                      0, or -1
//
// Source: Choi et al., PACT: Parameterized Clipping Activation for Quantized Neural Networks, 2018, eq. 1 to 3; two-sided
// and "ste" (the derivative with the rounding, not all of the quantizer, passed straight through) as in Jin et al., F8Net, ICLR
// 2022. NaN belongs to the middle region, so that it shows in x_hat and the gradient of x.
#include <cstdint>

#include "qstep/core/grid.h"
#include "qstep/core/platform.h"
#include "qstep/core/rounding.h"

namespace qstep::methods::pact {

/// What alpha gets from an x that is not clipped: nothing (the paper), or the derivative of the rounding error ("ste").
enum class AlphaGradient : uint8_t { pact, ste };

/// Steps between 0 and alpha. bit_width >= 2.
QSTEP_HOST_DEVICE constexpr int32_t levels(int64_t bit_width, bool is_signed) {
  return (int32_t{1} << (is_signed ? bit_width - 1 : bit_width)) - 1;
}

/// A grid in the type F that the arithmetic runs in. alpha > 0; scale is alpha / levels, rounded once.
template <class F>
struct Grid {
  F alpha;
  F scale;
  F levels;
  bool is_signed;
};

template <class F>
QSTEP_HOST_DEVICE Grid<F> grid_of(F alpha, int32_t levels, bool is_signed) {
  return {alpha, alpha / static_cast<F>(levels), static_cast<F>(levels), is_signed};
}

template <class F>
QSTEP_HOST_DEVICE F code(F v, const Grid<F>& grid) {
  return core::round_half_even(core::clamp(v, grid.is_signed ? -grid.levels : F(0), grid.levels));
}

/// x_hat. Equals core::dequantize(core::quantize(x)) with zero_point 0 and offset 0 in float; NaN gives NaN.
template <class F>
QSTEP_HOST_DEVICE F fake_quantize(F x, const Grid<F>& grid) {
  return code(x / grid.scale, grid) * grid.scale + F(0);  // -0 becomes +0
}

/// What one element adds to each gradient.
template <class F>
struct Gradient {
  F x;
  F alpha;
};

template <AlphaGradient kind, class F>
QSTEP_HOST_DEVICE Gradient<F> gradient(F x, F grad_output, const Grid<F>& grid) {
  const bool above = x >= grid.alpha;
  const bool below = grid.is_signed ? x <= -grid.alpha : x < F(0);
  const bool clipped = above | below;  // selections, not branches: this runs vectorised
  const F v = x / grid.scale;
  const F q = code(v, grid);  // of clipped x: levels, 0 or -levels
  const F inside = kind == AlphaGradient::ste ? q - v : F(0);
  return {clipped ? F(0) : grad_output, grad_output * ((clipped ? q : inside) / grid.levels)};
}

}  // namespace qstep::methods::pact
