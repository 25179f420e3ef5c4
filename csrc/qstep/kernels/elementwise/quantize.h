#pragma once
// The borders of the integer network: floats to codes and back. These work on runs of `count` elements; codes and
// accumulators may be strided, so that a plane of an NCHW float tensor meets a channel of an NHWC one.
#include <cstdint>
#include <span>
#include <string_view>

#include "qstep/core/grid.h"
#include "qstep/kernels/isa.h"

namespace qstep::kernels {

/// output[i * output_stride] = core::quantize(input[i], grid), on a grid that validate_code_grid accepts. Infinities
/// saturate. Returns false where a NaN was met (its code is quant_min).
struct QuantizeKernel {
  std::string_view name;
  Isa isa;
  bool (*supports)(const core::Grid&);
  bool (*run)(const float* input, int64_t count, const core::Grid& grid, uint8_t* output, int64_t output_stride);
};

/// output[i] = core::dequantize(input[i * input_stride], grid)
struct DequantizeKernel {
  std::string_view name;
  Isa isa;
  bool (*supports)(const core::Grid&);
  void (*run)(const uint8_t* input, int64_t input_stride, int64_t count, const core::Grid& grid, float* output);
};

/// output[i] = float32(scale * input[i * input_stride]), the product in float64: for one channel of a layer's
/// accumulators.
struct DequantizeAccumulatorsKernel {
  std::string_view name;
  Isa isa;
  bool (*supports)(double scale);
  void (*run)(const int32_t* input, int64_t input_stride, int64_t count, double scale, float* output);
};

std::span<const QuantizeKernel> quantize_kernels();
std::span<const DequantizeKernel> dequantize_kernels();
std::span<const DequantizeAccumulatorsKernel> dequantize_accumulators_kernels();

const QuantizeKernel& choose_quantize(const core::Grid& grid, Isa isa = current_isa());
const DequantizeKernel& choose_dequantize(const core::Grid& grid, Isa isa = current_isa());
const DequantizeAccumulatorsKernel& choose_dequantize_accumulators(double scale, Isa isa = current_isa());

/// Throws Error unless scale is finite and > 0, offset finite, 0 <= quant_min <= quant_max <= 255, and zero_point in
/// [0, 255].
void validate_code_grid(const core::Grid& grid);

}  // namespace qstep::kernels
