#pragma once
// The affine grid: how an integer code stands for a real number.
//
//   real(q) = scale * (q - zero_point) + offset             q in [quant_min, quant_max]
//   code(x) = clamp(round_half_even((x - offset) / scale) + zero_point, quant_min, quant_max)
//
// One type for every affine method: LSQ and PACT have zero_point = offset = 0, LSQ+ a learned real offset, IAO an integer
// zero_point, F8Net a power of two as scale. Derivations: docs/numerics.md.
#include <cstdint>

#include "qstep/core/platform.h"
#include "qstep/core/rounding.h"

namespace qstep::core {

struct Grid {
  float scale = 1.0F;       ///< step between neighbouring codes, finite and > 0
  int32_t zero_point = 0;   ///< code of the real `offset`
  float offset = 0.0F;      ///< real-valued shift (LSQ+ only, else 0)
  int32_t quant_min = 0;    ///< smallest code
  int32_t quant_max = 255;  ///< largest code

  friend bool operator==(const Grid&, const Grid&) = default;
};

template <class T>
QSTEP_HOST_DEVICE T clamp(T x, T low, T high) {
  const T raised = x < low ? low : x;  // two steps, so that compilers see max and min; keeps NaN
  return raised > high ? high : raised;
}

/// Code of x, computed in float32 with a true division. NaN gives quant_min (a check upstream rejects NaN input).
QSTEP_HOST_DEVICE int32_t quantize(float x, const Grid& grid) {
  // Clamping the rounded quotient before the conversion keeps it defined for huge and infinite x.
  const float low = static_cast<float>(grid.quant_min - grid.zero_point);
  const float high = static_cast<float>(grid.quant_max - grid.zero_point);
  const float rounded = round_half_even((x - grid.offset) / grid.scale);
  if (!(rounded > low)) return grid.quant_min;
  if (rounded >= high) return grid.quant_max;
  return static_cast<int32_t>(rounded) + grid.zero_point;
}

/// Real value of code q in float32: one rounded product, one rounded sum.
QSTEP_HOST_DEVICE float dequantize(int32_t q, const Grid& grid) {
  return grid.scale * static_cast<float>(q - grid.zero_point) + grid.offset;
}

/// The code nearest to real zero: what padding writes. Equals zero_point when offset is 0 and zero_point is in range.
QSTEP_HOST_DEVICE int32_t zero_code(const Grid& grid) {
  const double nearest =
      round_half_even(-static_cast<double>(grid.offset) / static_cast<double>(grid.scale)) + grid.zero_point;
  return static_cast<int32_t>(clamp(nearest, static_cast<double>(grid.quant_min), static_cast<double>(grid.quant_max)));
}

/// What zero_code really stands for, in double: 0 unless a real offset is off the grid or zero is out of range.
/// real(q) = scale * (q - zero_code) + residual.
QSTEP_HOST_DEVICE double residual(const Grid& grid) {
  return static_cast<double>(grid.scale) * (zero_code(grid) - grid.zero_point) + static_cast<double>(grid.offset);
}

/// The same grid with codes from 0: the form the engine stores. Only the names of the codes change, not one real value.
QSTEP_HOST_DEVICE Grid to_unsigned(Grid grid) {
  return {grid.scale, grid.zero_point - grid.quant_min, grid.offset, 0, grid.quant_max - grid.quant_min};
}

}  // namespace qstep::core
