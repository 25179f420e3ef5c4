#pragma once
// Convolution as a blocked matrix product (gemm/panel_gemm.h) whose rows are gathered tap by tap: one block of rows at
// a time, in cache, never the whole image. A 1x1 convolution reads its rows where they lie.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "qstep/kernels/conv2d/conv2d.h"
#include "qstep/kernels/gemm/panel_gemm.h"

namespace qstep::kernels {

/// What gathering needs to know of a convolution.
struct ConvolutionGeometry {
  core::Window window;
  int64_t group_channels = 0;  ///< in_channels / groups
  uint8_t zero_code = 0;

  bool is_pointwise() const {
    const auto all = [](const auto& values, int32_t value) {
      return std::ranges::all_of(values, [&](int32_t v) { return v == value; });
    };
    return all(window.kernel, 1) && all(window.stride, 1) && all(window.padding, 0);
  }
};

/// Row m holds the window of output pixel m: [kernel_h][kernel_w][group_channels].
struct WindowRows {
  const ConvolutionGeometry& geometry;
  const Conv2dArguments& arguments;

  int64_t count() const { return arguments.output_layout.pixels(); }

  const uint8_t* contiguous(int64_t first, int64_t group, int64_t& stride) const {
    if (!geometry.is_pointwise() || !arguments.input_layout.has_uniform_pixels()) return nullptr;
    stride = arguments.input_layout.pixel_stride;
    return arguments.input + first * stride + group * geometry.group_channels;
  }

  void output_offsets(int64_t first, int count, int64_t* offsets) const {
    const ImageLayout& layout = arguments.output_layout;
    PixelCursor at(layout, first);
    for (int r = 0; r < count; ++r, at.advance(layout)) offsets[r] = layout.offset(at.image, at.row, at.column);
  }

  template <class Arithmetic>
  void stage(int64_t first, int count, int64_t group, typename Arithmetic::Code* output, int64_t stride) const {
    PixelCursor at(arguments.output_layout, first);
    for (int r = 0; r < count; ++r, at.advance(arguments.output_layout)) {
      stage_window<Arithmetic>(at, group, output + r * stride);
    }
  }

 private:
  template <class Arithmetic>
  void stage_window(const PixelCursor& at, int64_t group, typename Arithmetic::Code* output) const {
    const core::Window& window = geometry.window;
    const ImageLayout& layout = arguments.input_layout;
    const int64_t row_size = window.kernel[1] * geometry.group_channels;
    const int64_t x = at.column * window.stride[1] - window.padding[1];
    for (int32_t i = 0; i < window.kernel[0]; ++i, output += row_size) {
      const int64_t y = at.row * window.stride[0] - window.padding[0] + int64_t{i} * window.dilation[0];
      if (y < 0 || y >= layout.height) {
        std::fill_n(output, row_size, geometry.zero_code);
      } else {
        const uint8_t* row = arguments.input + layout.offset(at.image, y, 0) + group * geometry.group_channels;
        stage_window_row<Arithmetic>(row, x, output);
      }
    }
  }

  /// kernel_w taps from column x on, of which some may be outside. Neighbouring pixels are copied as one run.
  template <class Arithmetic>
  void stage_window_row(const uint8_t* row, int64_t x, typename Arithmetic::Code* output) const {
    const core::Window& window = geometry.window;
    const ImageLayout& layout = arguments.input_layout;
    const int64_t channels = geometry.group_channels;
    if (window.dilation[1] == 1 && layout.pixel_stride == channels) {
      const int64_t begin = std::clamp<int64_t>(-x, 0, window.kernel[1]);
      const int64_t end = std::clamp<int64_t>(layout.width - x, begin, window.kernel[1]);
      std::fill_n(output, begin * channels, geometry.zero_code);
      if (begin < end) {
        Arithmetic::stage(row + (x + begin) * channels, (end - begin) * channels, output + begin * channels);
      }
      std::fill_n(output + end * channels, (window.kernel[1] - end) * channels, geometry.zero_code);
      return;
    }
    for (int32_t j = 0; j < window.kernel[1]; ++j, x += window.dilation[1], output += channels) {
      if (x < 0 || x >= layout.width) {
        std::fill_n(output, channels, geometry.zero_code);
      } else {
        Arithmetic::stage(row + x * layout.pixel_stride, channels, output);
      }
    }
  }
};

/// PackedConv2d over an Arithmetic.
template <class Arithmetic>
class PackedPanelConv2d final : public PackedConv2d {
 public:
  explicit PackedPanelConv2d(const Conv2dProblem& problem)
      : geometry_{problem.window, problem.in_channels / problem.groups, static_cast<uint8_t>(problem.zero_code)},
        gemm_(as_gemm(problem), problem.groups) {}

  int64_t work_items(const ImageLayout& output) const override { return gemm_.work_items(output.pixels()); }
  size_t scratch_bytes(const ImageLayout&) const override { return gemm_.scratch_bytes(); }
  size_t packed_bytes() const override { return gemm_.packed_bytes(); }

  void run(const Conv2dArguments& arguments, Range items, std::byte* scratch) const override {
    gemm_.run(WindowRows{geometry_, arguments}, arguments.output, items, scratch);
  }

 private:
  ConvolutionGeometry geometry_;
  PanelGemm<Arithmetic> gemm_;
};

template <class Arithmetic>
std::unique_ptr<PackedConv2d> pack_panel_conv2d(const Conv2dProblem& problem) {
  validate(problem);
  return std::make_unique<PackedPanelConv2d<Arithmetic>>(problem);
}

template <class Arithmetic>
bool supports_panel_conv2d(const Conv2dProblem& problem) {
  return Arithmetic::supports(as_gemm(problem));
}

}  // namespace qstep::kernels
