#pragma once
// IAO's affine fake quantization for one element, and its grid for a range, on host and device.
//
//   q = clamp(round(x / scale) + zero_point, quant_min, quant_max)        x_hat = (q - zero_point) * scale
//   d x_hat / dx = 1 where nudged_min <= x <= nudged_max, else 0
//   nudged_min = (quant_min - zero_point) * scale        nudged_max = (quant_max - zero_point) * scale
//
// Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
// CVPR 2018, eq. 1 and 12. NaN gives NaN and lets the gradient pass.
#include <cmath>
#include <cstdint>

#include "qstep/core/grid.h"
#include "qstep/core/platform.h"
#include "qstep/core/rounding.h"

namespace qstep::methods::iao {

/// half_even: the rule of all of qstep. half_up: ties towards +infinity, for parity with TensorFlow's kernels.
enum class Rounding : uint8_t { half_even, half_up };

/// A grid in the type F that the arithmetic runs in. scale > 0; zero_point is an integer of [quant_min, quant_max].
template <class F>
struct Grid {
  F scale;
  F zero_point;
  F quant_min;
  F quant_max;
};

template <Rounding rounding, class F>
QSTEP_HOST_DEVICE F round(F v) {
  const F nearest = core::round_half_even(v);
  if constexpr (rounding == Rounding::half_up) return v - nearest == F(0.5) ? nearest + F(1) : nearest;
  return nearest;
}

/// x_hat. With half_even it equals core::dequantize(core::quantize(x)) in float; NaN gives NaN.
template <Rounding rounding, class F>
QSTEP_HOST_DEVICE F fake_quantize(F x, const Grid<F>& grid) {
  const F q = core::clamp(round<rounding>(x / grid.scale) + grid.zero_point, grid.quant_min, grid.quant_max);
  return (q - grid.zero_point) * grid.scale;
}

/// grad_output where x is inside the range that the grid covers, bounds included, else 0.
template <class F>
QSTEP_HOST_DEVICE F gradient(F x, F grad_output, const Grid<F>& grid) {
  const bool below = x < (grid.quant_min - grid.zero_point) * grid.scale;
  const bool above = x > (grid.quant_max - grid.zero_point) * grid.scale;
  return (below | above) ? F(0) : grad_output;
}

/// Ranges that would need a scale below the smallest normal float count as [0, 0].
inline constexpr double smallest_scale = 0x1p-126;

struct ScaleAndZeroPoint {
  double scale;
  double zero_point;
};

/// Grid of the real range [min, max], extended to hold 0. The zero point is quant_min - min / scale rounded half away
/// from zero and clamped; it is computed from the range with one division, so that a true tie is seen as one. [0, 0]
/// gives scale 1.
QSTEP_HOST_DEVICE ScaleAndZeroPoint affine_params(double min, double max, double quant_min, double quant_max) {
  const double low = min < 0.0 ? min : 0.0;
  const double high = max > 0.0 ? max : 0.0;
  const double width = high - low;
  const double steps = quant_max - quant_min;
  if (!(width / steps >= smallest_scale)) return {1.0, core::clamp(0.0, quant_min, quant_max)};
  const double zero_point = ::round((quant_min * width - low * steps) / width);
  return {width / steps, core::clamp(zero_point, quant_min, quant_max)};
}

/// The smallest scale with which a grid with zero_point 0 covers [min, max], on the sides where it has codes; 1 for
/// [0, 0].
QSTEP_HOST_DEVICE ScaleAndZeroPoint symmetric_params(double min, double max, double quant_min, double quant_max) {
  const double from_min = quant_min < 0.0 && min < 0.0 ? min / quant_min : 0.0;
  const double from_max = quant_max > 0.0 && max > 0.0 ? max / quant_max : 0.0;
  const double scale = from_min > from_max ? from_min : from_max;
  return {scale >= smallest_scale ? scale : 1.0, 0.0};
}

}  // namespace qstep::methods::iao
