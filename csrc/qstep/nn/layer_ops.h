#pragma once
// The arithmetic of quantized layers on tensors, shared by the C++ modules and, as torch.ops.qstep.*, by the Python ones.
//
// Forward on codes, backward on values (docs/architecture.md): the forward pass convolves integers held in floats, so that its
// sums are the int32 accumulators of the integer engine, exactly, while they stay below 2^24; the backward pass is that of the plain
// convolution on the real tensors.
#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <tuple>

namespace qstep::nn {

using at::Tensor;

/// Geometry of a 2-D convolution: {height, width}; padding is {top, left, bottom, right}.
struct ConvGeometry {
  std::array<int64_t, 2> stride{1, 1};
  std::array<int64_t, 4> padding{0, 0, 0, 0};
  std::array<int64_t, 2> dilation{1, 1};
  int64_t groups = 1;
};

/// conv(x - residual, weight) + bias, zero-padded, computed on the codes round((x - residual) / input_scale) and
/// round(weight / weight_scale). x: [N, C, H, W] on its grid; weight: [O, C / groups, kh, kw] on its grid; input_scale and
/// input_residual: one element; weight_scale: 1 or O elements; bias: [O]. Floating dtypes. Gradients for x, weight and bias are those
/// of the real-valued convolution; scales and residual are constants here (their gradients flow through x and weight).
Tensor conv2d(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& input_scale,
              const std::optional<Tensor>& input_residual, const Tensor& weight_scale, const ConvGeometry& geometry);

/// (x - residual) weight^T + bias on codes; x: [..., in], weight: [out, in]. Otherwise as conv2d.
Tensor linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& input_scale,
              const std::optional<Tensor>& input_residual, const Tensor& weight_scale);

/// The bias as the integer network can represent it: unit * round_half_even((bias - offset) / unit) + offset, in float64;
/// `unit` is the real value of one accumulator step, `offset` that of the grid the layer is requantized to. Gradient 1 to bias.
Tensor round_bias(const Tensor& bias, const Tensor& unit, const std::optional<Tensor>& offset);

/// Whether every sum of the layer, in units of the accumulator, is an integer that float32 holds exactly, with all partial sums:
/// largest_input * sum |code of weight| + |bias / unit| < 2^24 for every channel. largest_input: of the magnitudes of the input's codes.
/// Waits for the weight's device.
bool sums_fit_float32(const Tensor& weight, const Tensor& weight_scale, int64_t largest_input, const Tensor& bias,
                      const Tensor& unit);

/// Mean and variance (divided by the count) of each channel of y, [N, C, ...]: two of [C]. Differentiable. In two passes, which ATen
/// vectorises: var_mean over channels-last tensors takes several times as long.
std::tuple<Tensor, Tensor> mean_and_variance(const Tensor& y);

/// Batch norm with frozen statistics as y = factor * u + shift, in float64, for a layer u whose own bias is `layer_bias`:
/// factor = weight / sqrt(var + eps), shift = bias + (layer_bias - mean) * factor. Differentiable.
std::tuple<Tensor, Tensor> batch_norm_affine(const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
                                             const Tensor& mean, const Tensor& var, double eps,
                                             const std::optional<Tensor>& layer_bias);

}  // namespace qstep::nn
