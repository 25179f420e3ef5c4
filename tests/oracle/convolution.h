#pragma once
// Convolution of integers in int64 on logical [N, C, H, W] tensors: every input value is scattered to the outputs that
// it reaches, so that nothing is padded, gathered or offset.
#include <cstdint>
#include <vector>

#include "qstep/core/window.h"

namespace qstep::oracle {

struct Convolution {
  int64_t batch, in_channels, height, width, out_channels, groups;
  core::Window window;

  int64_t out_height() const { return core::output_size(window, 0, height); }
  int64_t out_width() const { return core::output_size(window, 1, width); }
};

/// input: [N, C, H, W], already centred. weights: [out, kernel_h, kernel_w, in / groups]. Returns [N, O, out_h, out_w].
inline std::vector<int64_t> convolve(const Convolution& c, const std::vector<int64_t>& input,
                                     const std::vector<int16_t>& weights, const std::vector<int32_t>& bias) {
  const int64_t out_h = c.out_height();
  const int64_t out_w = c.out_width();
  const int64_t group_in = c.in_channels / c.groups;
  const int64_t group_out = c.out_channels / c.groups;
  std::vector<int64_t> output(static_cast<size_t>(c.batch * c.out_channels * out_h * out_w));
  for (size_t i = 0; i < output.size(); ++i)
    output[i] = bias[i / static_cast<size_t>(out_h * out_w) % static_cast<size_t>(c.out_channels)];
  size_t at = 0;
  for (int64_t n = 0; n < c.batch; ++n) {
    for (int64_t channel = 0; channel < c.in_channels; ++channel) {
      const int64_t group = channel / group_in;
      for (int64_t y = 0; y < c.height; ++y) {
        for (int64_t x = 0; x < c.width; ++x) {
          const int64_t value = input[at++];
          for (int64_t i = 0; i < c.window.kernel[0]; ++i) {
            const int64_t top =
                y + c.window.padding[0] - i * c.window.dilation[0];  // of the window whose tap i is here
            if (top < 0 || top % c.window.stride[0] != 0 || top / c.window.stride[0] >= out_h) continue;
            for (int64_t j = 0; j < c.window.kernel[1]; ++j) {
              const int64_t left = x + c.window.padding[1] - j * c.window.dilation[1];
              if (left < 0 || left % c.window.stride[1] != 0 || left / c.window.stride[1] >= out_w) continue;
              for (int64_t o = group * group_out; o < (group + 1) * group_out; ++o) {
                const int64_t weight =
                    ((o * c.window.kernel[0] + i) * c.window.kernel[1] + j) * group_in + channel % group_in;
                output[static_cast<size_t>(((n * c.out_channels + o) * out_h + top / c.window.stride[0]) * out_w +
                                           left / c.window.stride[1])] += value * weights[static_cast<size_t>(weight)];
              }
            }
          }
        }
      }
    }
  }
  return output;
}

}  // namespace qstep::oracle
