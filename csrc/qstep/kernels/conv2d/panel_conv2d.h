#pragma once
// Convolution as a blocked matrix product (gemm/panel_gemm.h) whose rows are windows (window_rows.h): one block of rows
// at a time, in cache, never the whole image.
#include <cstddef>
#include <cstdint>
#include <memory>

#include "qstep/kernels/conv2d/conv2d.h"
#include "qstep/kernels/conv2d/window_rows.h"
#include "qstep/kernels/gemm/panel_gemm.h"

namespace qstep::kernels {

/// PackedConv2d over an Arithmetic.
template <class Arithmetic>
class PackedPanelConv2d final : public PackedConv2d {
 public:
  explicit PackedPanelConv2d(const Conv2dProblem& problem)
      : geometry_{problem.window, problem.in_channels / problem.groups, static_cast<uint8_t>(problem.zero_code)},
        gemm_(as_gemm(problem), problem.groups) {}

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
  return Arithmetic::supports(as_gemm(problem));
}

}  // namespace qstep::kernels
