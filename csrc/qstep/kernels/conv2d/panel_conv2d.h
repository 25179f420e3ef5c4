#pragma once
// Convolution as a blocked matrix product (gemm/panel_gemm.h) whose rows are windows (window_rows.h): one block of rows
// at a time, in cache, never the whole image.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "qstep/core/error.h"
#include "qstep/kernels/conv2d/conv2d.h"
#include "qstep/kernels/conv2d/window_rows.h"
#include "qstep/kernels/gemm/panel_gemm.h"

namespace qstep::kernels {

/// Codes that a row of the window covers.
inline int64_t unpadded_row(const Conv2dProblem& problem) {
  return problem.window.kernel[1] * (problem.in_channels / problem.groups);
}

/// Zero weights after each row of the window, 0 where rows are whole runs already, that let bands be read instead of copied
/// windows; nothing where they would make the product a lot deeper, or where a window has one row of one tap, which is
/// cheap to copy.
template <class Arithmetic>
std::optional<int64_t> padding_of_rows(const Conv2dProblem& problem) {
  const core::Window& window = problem.window;
  if (window.dilation[1] != 1 || (window.kernel[0] == 1 && window.kernel[1] == 1)) return std::nullopt;
  for (int d = 0; d < 2; ++d) {
    if (window.stride[d] > window.kernel[d]) return std::nullopt;
  }
  const int64_t row = unpadded_row(problem);
  const int64_t padding = ceil_divide(row, Arithmetic::depth_run) * Arithmetic::depth_run - row;
  if (3 * padding > row) return std::nullopt;
  return padding;
}

template <class Arithmetic>
int64_t row_padding(const Conv2dProblem& problem) {
  return padding_of_rows<Arithmetic>(problem).value_or(0);
}

/// as_gemm(problem) with `padding` more values of depth after each row of the window.
class PaddedRows {
 public:
  PaddedRows(const Conv2dProblem& problem, int64_t padding) : gemm_(as_gemm(problem)) {
    if (padding == 0) return;
    const int64_t row = unpadded_row(problem);
    gemm_.depth = problem.window.kernel[0] * (row + padding);
    for (size_t k = 0; k < problem.weights.size(); k += static_cast<size_t>(row)) {
      const auto weights = problem.weights.subspan(k, static_cast<size_t>(row));
      weights_.insert(weights_.end(), weights.begin(), weights.end());
      weights_.resize(weights_.size() + static_cast<size_t>(padding), 0);
    }
    gemm_.weights = weights_;
  }
  PaddedRows(const PaddedRows&) = delete;

  const GemmProblem& gemm() const { return gemm_; }

 private:
  GemmProblem gemm_;
  std::vector<int16_t> weights_;
};

/// PackedConv2d over an Arithmetic.
template <class Arithmetic>
class PackedPanelConv2d final : public PackedConv2d {
 public:
  explicit PackedPanelConv2d(const Conv2dProblem& problem)
      : geometry_{problem.window, problem.in_channels / problem.groups, static_cast<uint8_t>(problem.zero_code),
                  row_padding<Arithmetic>(problem)},
        gemm_(PaddedRows(problem, geometry_.row_padding).gemm(), problem.groups) {}

  int64_t work_items(const ImageLayout& output) const override { return gemm_.work_items(output.pixels()); }
  size_t scratch_bytes(const ImageLayout& output) const override {
    return WindowRows<Arithmetic>::scratch_bytes(geometry_, output);
  }
  size_t packed_bytes() const override { return gemm_.packed_bytes(); }

  void run(const Conv2dArguments& arguments, Range items, std::byte* scratch) const override {
    WindowRows<Arithmetic> rows(geometry_, arguments, scratch);
    gemm_.run(rows, arguments.output, items);
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
  return Arithmetic::supports(PaddedRows(problem, row_padding<Arithmetic>(problem)).gemm());
}

template <class Arithmetic>
bool suits_panel_conv2d(const Conv2dProblem& problem) {
  return suits_panel_gemm<Arithmetic>(PaddedRows(problem, row_padding<Arithmetic>(problem)).gemm());
}

/// True where all that is read are codes. With zero weights after the rows of a window, so are the codes behind a row in an
/// image, or whatever lies behind a copy of rows: most arithmetics multiply that by zero.
template <class Arithmetic>
bool reads_codes_only(const Conv2dProblem& problem) {
  return row_padding<Arithmetic>(problem) == 0;
}

/// For arithmetics that do more than multiply.
template <class Arithmetic>
bool supports_codes_only(const Conv2dProblem& problem) {
  return reads_codes_only<Arithmetic>(problem) && supports_panel_conv2d<Arithmetic>(problem);
}

template <class Arithmetic>
std::unique_ptr<PackedConv2d> pack_codes_only(const Conv2dProblem& problem) {
  require(reads_codes_only<Arithmetic>(problem), "conv2d: this arithmetic takes no padding between rows of a window");
  return pack_panel_conv2d<Arithmetic>(problem);
}

/// supports_panel_conv2d for an ungrouped product of pixels.
template <class Arithmetic>
bool supports_pixels(const Conv2dProblem& problem) {
  const core::Window& window = problem.window;
  return problem.groups == 1 && window.kernel[0] == 1 && window.kernel[1] == 1 &&
         supports_panel_conv2d<Arithmetic>(problem);
}

/// suits_panel_conv2d for images of so few channels that only rows of the window are runs of some length.
template <class Arithmetic>
bool suits_stem(const Conv2dProblem& problem) {
  constexpr int64_t most_channels = 4;
  return problem.in_channels / problem.groups <= most_channels && padding_of_rows<Arithmetic>(problem) &&
         suits_panel_conv2d<Arithmetic>(problem);
}

}  // namespace qstep::kernels
