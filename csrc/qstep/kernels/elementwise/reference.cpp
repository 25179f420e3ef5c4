#include <bit>

#include "qstep/core/grid.h"
#include "qstep/core/rounding.h"
#include "qstep/kernels/elementwise/kernels.h"

namespace qstep::kernels {
namespace {

/// body(image, row, column, channel) for all elements of work items.
template <class Body>
void for_each_element(const ImageLayout& layout, Range items, Body body) {
  for (int64_t item = items.begin; item < items.end; ++item) {
    for (int64_t column = 0; column < layout.width; ++column) {
      for (int64_t c = 0; c < layout.channels; ++c) body(item / layout.height, item % layout.height, column, c);
    }
  }
}

/// sum(c_a, c_b) for all pairs of centred codes, rounded to codes.
template <class Sum>
void bilinear(const BilinearProblem& p, const BilinearArguments& arguments, Range items, Sum sum) {
  for_each_element(arguments.output_layout, items, [&](int64_t image, int64_t row, int64_t column, int64_t c) {
    const int64_t a = arguments.a[arguments.a_layout.offset(image, row, column) + c] - p.zero_code_a;
    const int64_t b =
        arguments.b[arguments.b_layout.offset(image, row, column) + c * arguments.b_channel_stride] - p.zero_code_b;
    const int64_t code = core::shift_right_half_even(sum(a, b), p.shift) + p.zero_point;
    arguments.output[arguments.output_layout.offset(image, row, column) + c] =
        static_cast<uint8_t>(core::clamp<int64_t>(code, p.clamp_min, p.clamp_max));
  });
}

}  // namespace

void bilinear_reference(const BilinearProblem& p, const BilinearArguments& arguments, Range items) {
  bilinear(p, arguments, items,
           [&](int64_t a, int64_t b) { return p.product * a * b + p.left * a + p.right * b + p.constant; });
}

void bilinear_shift_reference(const BilinearProblem& p, const BilinearArguments& arguments, Range items) {
  const int left = std::countr_zero(static_cast<uint64_t>(p.left));
  const int right = std::countr_zero(static_cast<uint64_t>(p.right));
  bilinear(p, arguments, items, [&](int64_t a, int64_t b) { return (a << left) + (b << right); });
}

void lookup_reference(const LookupProblem& problem, const LookupArguments& arguments, Range items) {
  for_each_element(arguments.output_layout, items, [&](int64_t image, int64_t row, int64_t column, int64_t c) {
    arguments.output[arguments.output_layout.offset(image, row, column) + c] =
        problem.table[arguments.input[arguments.input_layout.offset(image, row, column) + c]];
  });
}

bool quantize_reference(const float* input, int64_t count, const core::Grid& grid, uint8_t* output,
                        int64_t output_stride) {
  bool valid = true;
  for (int64_t i = 0; i < count; ++i) {
    valid = valid && !std::isnan(input[i]);
    output[i * output_stride] = static_cast<uint8_t>(core::quantize(input[i], grid));
  }
  return valid;
}

void dequantize_reference(const uint8_t* input, int64_t input_stride, int64_t count, const core::Grid& grid,
                          float* output) {
  for (int64_t i = 0; i < count; ++i) output[i] = core::dequantize(input[i * input_stride], grid);
}

void dequantize_accumulators_reference(const int32_t* input, int64_t input_stride, int64_t count, double scale,
                                       float* output) {
  for (int64_t i = 0; i < count; ++i) output[i] = static_cast<float>(scale * input[i * input_stride]);
}

}  // namespace qstep::kernels
