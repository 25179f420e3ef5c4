#include "qstep/core/grid.h"
#include "qstep/core/rounding.h"
#include "qstep/kernels/pool/kernels.h"
#include "qstep/kernels/pool/taps.h"

namespace qstep::kernels {

namespace {

uint8_t to_code(const AvgPool2dProblem& p, int64_t steps) {
  return static_cast<uint8_t>(core::clamp<int64_t>(steps + p.zero_point, p.clamp_min, p.clamp_max));
}

/// code_of(sum, taps inside the image, divisor) for every window.
template <class CodeOf>
void average(const AvgPool2dProblem& problem, const PoolArguments& arguments, Range items, CodeOf code_of) {
  const ImageLayout& in = arguments.input_layout;
  const ImageLayout& out = arguments.output_layout;
  for (int64_t item = items.begin; item < items.end; ++item) {
    const int64_t image = item / out.height;
    const int64_t row = item % out.height;
    const AverageTaps ys = average_taps(problem, 0, row, in.height, out.height);
    for (int64_t column = 0; column < out.width; ++column) {
      const AverageTaps xs = average_taps(problem, 1, column, in.width, out.width);
      for (int64_t c = 0; c < out.channels; ++c) {
        int64_t sum = 0;
        for (int64_t y = ys.inside.begin; y < ys.inside.end; ++y) {
          for (int64_t x = xs.inside.begin; x < xs.inside.end; ++x) sum += arguments.input[in.offset(image, y, x) + c];
        }
        arguments.output[out.offset(image, row, column) + c] =
            code_of(sum, ys.inside.count() * xs.inside.count(), divisor(problem, ys, xs));
      }
    }
  }
}

}  // namespace

uint8_t average_code(const AvgPool2dProblem& p, int64_t sum, int64_t taps, int64_t divisor) {
  const int64_t numerator = p.multiplier * (sum - taps * p.zero_code) + taps * p.tap_constant + divisor * p.constant;
  return to_code(p, core::divide_half_even(numerator, divisor << p.shift));
}

uint8_t average_code_by_shift(const AvgPool2dProblem& p, int64_t sum, int64_t taps) {
  return to_code(p, core::shift_half_even(sum - taps * p.zero_code, shift_of(p)));
}

void max_pool2d_reference(const MaxPool2dProblem& problem, const PoolArguments& arguments, Range items) {
  const ImageLayout& in = arguments.input_layout;
  const ImageLayout& out = arguments.output_layout;
  for (int64_t item = items.begin; item < items.end; ++item) {
    const int64_t image = item / out.height;
    const int64_t row = item % out.height;
    const Taps ys = window_taps(problem.window, 0, row, in.height);
    for (int64_t column = 0; column < out.width; ++column) {
      const Taps xs = window_taps(problem.window, 1, column, in.width);
      for (int64_t c = 0; c < out.channels; ++c) {
        uint8_t largest = 0;
        for (int64_t y = ys.begin; y < ys.end; y += ys.step) {
          for (int64_t x = xs.begin; x < xs.end; x += xs.step) {
            largest = std::max(largest, arguments.input[in.offset(image, y, x) + c]);
          }
        }
        arguments.output[out.offset(image, row, column) + c] = largest;
      }
    }
  }
}

void avg_pool2d_reference(const AvgPool2dProblem& problem, const PoolArguments& arguments, Range items) {
  average(problem, arguments, items,
          [&](int64_t sum, int64_t taps, int64_t divisor) { return average_code(problem, sum, taps, divisor); });
}

void avg_pool2d_shift_reference(const AvgPool2dProblem& problem, const PoolArguments& arguments, Range items) {
  average(problem, arguments, items,
          [&](int64_t sum, int64_t taps, int64_t) { return average_code_by_shift(problem, sum, taps); });
}

}  // namespace qstep::kernels
