#pragma once
// LSQ and LSQ+ for one element, on host and device. LSQ is LSQ+ with offset 0.
//
//   v = (x - offset) / scale      q = round_half_even(clamp(v, quant_min, quant_max))      x_hat = q * scale + offset
//
//   region                        d x_hat / dx    d x_hat / d scale    d x_hat / d offset
//   quant_min < v < quant_max     1               q - v                0
//   v <= quant_min                0               q = quant_min        1
//   v >= quant_max                0               q = quant_max        1
//
// Source: Esser et al., Learned Step Size Quantization, ICLR 2020, eq. 1 to 3; Bhalgat et al., LSQ+, CVPR workshops
// 2020, for the offset. The region is that of the unrounded v. NaN belongs to the middle region, so that it shows in
// every result.
#include <cstdint>

#include "qstep/core/grid.h"
#include "qstep/core/platform.h"
#include "qstep/core/rounding.h"

namespace qstep::methods::lsq_plus {

/// Whether v equal to a bound counts as clipped (the papers' inequalities) or as inside.
enum class Boundary : uint8_t { strict, inclusive };

/// A grid in the type F that the arithmetic runs in. scale > 0.
template <class F>
struct Grid {
  F scale;
  F offset;
  F quant_min;
  F quant_max;
};

/// x_hat. Equals core::dequantize(core::quantize(x)) with zero_point 0 in float; NaN gives NaN.
template <class F>
QSTEP_HOST_DEVICE F fake_quantize(F x, const Grid<F>& grid) {
  const F q = core::round_half_even(core::clamp((x - grid.offset) / grid.scale, grid.quant_min, grid.quant_max));
  return q * grid.scale + grid.offset;
}

/// What one element adds to each gradient.
template <class F>
struct Gradient {
  F x;
  F scale;
  F offset;
};

template <Boundary boundary, class F>
QSTEP_HOST_DEVICE Gradient<F> gradient(F x, F grad_output, const Grid<F>& grid) {
  const F v = (x - grid.offset) / grid.scale;
  const bool below = boundary == Boundary::strict ? v <= grid.quant_min : v < grid.quant_min;
  const bool above = boundary == Boundary::strict ? v >= grid.quant_max : v > grid.quant_max;
  const bool clipped = below | above;  // selections, not branches: this runs vectorised
  const F q = core::round_half_even(core::clamp(v, grid.quant_min, grid.quant_max));
  const F scale_derivative = q - (clipped ? F(0) : v);
  return {clipped ? F(0) : grad_output, grad_output * scale_derivative, clipped ? grad_output : F(0)};
}

}  // namespace qstep::methods::lsq_plus
