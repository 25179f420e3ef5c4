#pragma once
// Weights described by real numbers, as ir::Builder takes them: what a quantizer of each kind knows. Spans are read during
// the call only. Shapes are [out, in / groups, kernel_h, kernel_w] or [out, in]; values are row-major.
#include <cstdint>
#include <span>
#include <variant>
#include <vector>

namespace qstep::ir {

/// Weights on a uniform grid: real = scale[c] * (code - zero_point).
struct UniformWeight {
  std::vector<int64_t> shape;
  std::span<const float> values;  ///< already on the grid
  std::span<const float> scale;   ///< 1 or out values, > 0
  int32_t zero_point = 0;
  int32_t quant_min = -128;
  int32_t quant_max = 127;
};

/// Weights that are 0 or +-2^k, max_exponent - 2^(bit_width - 2) < k <= max_exponent (INQ: max_exponent is n_1).
struct PowerOfTwoWeight {
  std::vector<int64_t> shape;
  std::span<const float> values;
  int32_t bit_width = 5;     ///< 2..5
  int32_t max_exponent = 0;  ///< -126..127
  bool variable_length =
      false;  ///< how the checkpoint stores them: 1 bit for a zero and bit_width for others, or bit_width for all
};

/// Weights of arbitrary integer levels: real = scale[c] * level.
struct CodeBookWeight {
  std::vector<int64_t> shape;
  std::span<const float> values;
  std::span<const float> scale;     ///< 1 or out values, > 0
  std::span<const int16_t> levels;  ///< tables of equal length, 2..256, each in ascending order
  int64_t tables = 1;               ///< 1 or out
};

/// Weights of two to four regions (PWLQ): real = sign * (start[r][c] + step[r][c] * magnitude) + constant[c]. The sign
/// counts even where the magnitude is 0, but in region 0.
struct PiecewiseWeight {
  std::vector<int64_t> shape;
  int32_t bit_width = 4;               ///< 2..8: sign and magnitude; the region is stored beside them
  int32_t regions = 2;                 ///< 2..4
  std::span<const uint8_t> region;     ///< one per weight, below `regions`
  std::span<const uint8_t> magnitude;  ///< one per weight, below 2^(bit_width - 1)
  std::span<const uint8_t> negative;   ///< one per weight, 0 or 1
  std::span<const double> step;        ///< [regions][1] or [regions][out], >= 0
  std::span<const double> start;       ///< as many, >= 0; 0 in region 0
  std::span<const double> constant;    ///< [out], or empty: 0
};

using RealWeight = std::variant<UniformWeight, PowerOfTwoWeight, CodeBookWeight, PiecewiseWeight>;

}  // namespace qstep::ir
