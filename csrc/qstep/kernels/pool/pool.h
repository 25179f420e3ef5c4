#pragma once
// Pooling of codes.
//
//   max:      output = max over the window's taps inside the image: padding never wins
//   average:  mean   = divide_half_even(multiplier * sum(c) + t * tap_constant + d * constant, d << shift)
//             output = clamp(mean + zero_point, clamp_min, clamp_max)
//             with c = input - zero_code, t the window's number of taps inside the image, and the divisor d:
//             divisor_override or, where that is 0, the taps inside the padded image (count_include_pad) or t
//
// Work items are output rows: batch * output height.
#include <cstdint>
#include <span>
#include <string_view>

#include "qstep/core/window.h"
#include "qstep/kernels/isa.h"
#include "qstep/kernels/layout.h"

namespace qstep::kernels {

struct PoolArguments {
  const uint8_t* input = nullptr;
  ImageLayout input_layout;
  uint8_t* output = nullptr;
  /// Of as many channels. Its size decides how many windows there are: ceil_mode is the caller's business.
  ImageLayout output_layout;
};

struct MaxPool2dProblem {
  core::Window window;
};

struct MaxPool2dKernel {
  std::string_view name;
  Isa isa;
  bool (*supports)(const MaxPool2dProblem&);
  void (*run)(const MaxPool2dProblem&, const PoolArguments&, Range items);
};

struct AvgPool2dProblem {
  core::Window window;  ///< dilation 1
  bool count_include_pad = true;
  bool adaptive = false;  ///< windows are [floor(i * in / out), ceil((i + 1) * in / out)); `window` is ignored
  int32_t divisor_override = 0;
  int32_t zero_code = 0;   ///< of the input
  int32_t multiplier = 0;  ///< |multiplier| < 2^24
  int64_t tap_constant = 0;
  int64_t constant = 0;
  /// With n taps and the divisor d of the largest window:
  /// d << shift <= 2^62, n * (255 * |multiplier| + |tap_constant|) + d * |constant| < 2^62
  int32_t shift = 0;
  int32_t zero_point = 0;  ///< of the output
  int32_t clamp_min = 0;
  int32_t clamp_max = 255;
};

/// True where the average is one shift: constants of 0, and a multiplier and a divisor_override that are powers of two.
bool is_shift(const AvgPool2dProblem& problem);

/// Then output = clamp(shift_half_even(sum(c), this) + zero_point, clamp_min, clamp_max).
int shift_of(const AvgPool2dProblem& problem);

struct AvgPool2dKernel {
  std::string_view name;
  Isa isa;
  bool (*supports)(const AvgPool2dProblem&);
  void (*run)(const AvgPool2dProblem&, const PoolArguments&, Range items);
};

std::span<const MaxPool2dKernel> max_pool2d_kernels();
std::span<const AvgPool2dKernel> avg_pool2d_kernels();

const MaxPool2dKernel& choose_max_pool2d(const MaxPool2dProblem& problem, Isa isa = current_isa());
const AvgPool2dKernel& choose_avg_pool2d(const AvgPool2dProblem& problem, Isa isa = current_isa());

/// Throws Error where a parameter is out of the range given above, layouts disagree, or a window has no tap.
/// For the planning stage: run() does not check.
void validate(const MaxPool2dProblem& problem, const ImageLayout& input, const ImageLayout& output);
void validate(const AvgPool2dProblem& problem, const ImageLayout& input, const ImageLayout& output);

}  // namespace qstep::kernels
