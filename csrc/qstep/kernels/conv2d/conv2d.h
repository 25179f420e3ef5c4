#pragma once
// Convolution of codes, grouped, dilated, strided, padded on each side; depthwise ones included:
//
//   acc[n][y][x][o] = sum_{i, j, c} (input[n][v][u][g][c] - zero_code) * weights[o][i][j][c] + bias[o]
//       v = y * stride_h - top + i * dilation_h,  u = x * stride_w - left + j * dilation_w
//       g = o / (out_channels / groups)
//   output = acc, or its requantized code (epilogue/epilogue.h)
//
// Taps outside the image count as zero_code, so they add nothing.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "qstep/core/window.h"
#include "qstep/kernels/epilogue/epilogue.h"
#include "qstep/kernels/gemm/gemm.h"
#include "qstep/kernels/isa.h"
#include "qstep/kernels/layout.h"

namespace qstep::kernels {

/// Spans are read by supports() and pack() only.
struct Conv2dProblem {
  int64_t in_channels = 0;
  int64_t out_channels = 0;
  int64_t groups = 1;
  core::Window window;
  int32_t quant_max = 255;  ///< largest input code, 1..255: kernels rely on it
  int32_t zero_code = 0;    ///< 0..quant_max
  /// [sums][out_channels][kernel_h][kernel_w][in_channels / groups]: integers, any that int16 holds
  std::span<const int16_t> weights;
  std::span<const int32_t> bias;  ///< [out_channels]; with several sums (epilogue/combination.h), none
  Requantization requantization;
};

struct Conv2dArguments {
  const uint8_t* input = nullptr;  ///< codes in [0, quant_max]
  ImageLayout input_layout;        ///< channels == in_channels
  Output output;
  ImageLayout output_layout;  ///< channels == out_channels; height and width as core::output_size says
};

/// Weights in a kernel's own layout. Immutable: any number of threads may run it. Depends on no image size.
class PackedConv2d {
 public:
  virtual ~PackedConv2d() = default;
  /// Of one run: any ranges of them may be computed at the same time.
  virtual int64_t work_items(const ImageLayout& output) const = 0;
  /// Bytes of scratch that each concurrent run needs, aligned to memory_alignment.
  virtual size_t scratch_bytes(const ImageLayout& output) const = 0;
  /// Computes the outputs of `items`, a range in [0, work_items(arguments.output_layout)).
  virtual void run(const Conv2dArguments& arguments, Range items, std::byte* scratch) const = 0;
  virtual size_t packed_bytes() const = 0;
};

struct Conv2dKernel {
  std::string_view name;
  Isa isa;
  bool (*supports)(const Conv2dProblem&);                       ///< of a valid problem: true where the kernel is right
  std::unique_ptr<PackedConv2d> (*pack)(const Conv2dProblem&);  ///< throws Error where it does not support the problem
  bool (*suits)(const Conv2dProblem&) = nullptr;  ///< of a supported one: true where the kernel is fast; null: for all
};

std::span<const Conv2dKernel> conv2d_kernels();

/// The convolution as the matrix product that it is: a row per output pixel, whose depth is that of the window,
/// kernel_h * kernel_w * in_channels / groups. Output channels of different groups multiply different rows.
GemmProblem as_gemm(const Conv2dProblem& problem);

/// Throws Error where the problem is not as described above, or where an int32 accumulator could overflow (see gemm.h).
void validate(const Conv2dProblem& problem);

/// Throws Error where the layouts do not fit the problem or each other. For the planning stage: run() does not check.
void validate(const Conv2dProblem& problem, const ImageLayout& input, const ImageLayout& output);

const Conv2dKernel& choose_conv2d(const Conv2dProblem& problem, Isa isa = current_isa());

}  // namespace qstep::kernels
