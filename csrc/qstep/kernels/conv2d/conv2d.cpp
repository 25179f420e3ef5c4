#include "qstep/kernels/conv2d/conv2d.h"

#include "qstep/core/error.h"

namespace qstep::kernels {
namespace {

void validate_window(const core::Window& window) {
  for (int d = 0; d < 2; ++d) {
    require(window.kernel[d] >= 1, "conv2d: kernel must be at least 1, got {}", window.kernel[d]);
    require(window.stride[d] >= 1, "conv2d: stride must be at least 1, got {}", window.stride[d]);
    require(window.dilation[d] >= 1, "conv2d: dilation must be at least 1, got {}", window.dilation[d]);
  }
  for (const int32_t padding : window.padding) {
    require(padding >= 0, "conv2d: padding must be at least 0, got {}", padding);
  }
}

}  // namespace

GemmProblem as_gemm(const Conv2dProblem& p) {
  return {.depth = int64_t{p.window.kernel[0]} * p.window.kernel[1] * (p.in_channels / p.groups),
          .columns = p.out_channels,
          .quant_max = p.quant_max,
          .zero_code = p.zero_code,
          .weights = p.weights,
          .bias = p.bias,
          .requantization = p.requantization};
}

void validate(const Conv2dProblem& p) {
  validate_window(p.window);
  require(p.in_channels >= 1 && p.out_channels >= 1, "conv2d: channels must be at least 1, got {} in and {} out",
          p.in_channels, p.out_channels);
  require(p.groups >= 1 && p.in_channels % p.groups == 0 && p.out_channels % p.groups == 0,
          "conv2d: groups must divide {} input and {} output channels, got {}", p.in_channels, p.out_channels,
          p.groups);
  validate(as_gemm(p), "conv2d");
}

void validate(const Conv2dProblem& p, const ImageLayout& input, const ImageLayout& output) {
  require(input.channels == p.in_channels, "conv2d: input must have {} channels, got {}", p.in_channels,
          input.channels);
  require(output.channels == p.out_channels, "conv2d: output must have {} channels, got {}", p.out_channels,
          output.channels);
  require(output.batch == input.batch, "conv2d: output must have the batch of the input, {}, got {}", input.batch,
          output.batch);
  const int64_t height = core::output_size(p.window, 0, input.height);
  const int64_t width = core::output_size(p.window, 1, input.width);
  require(output.height == height && output.width == width,
          "conv2d: output must be {} x {} for an input of {} x {}, got {} x {}", height, width, input.height,
          input.width, output.height, output.width);
}

}  // namespace qstep::kernels
