#pragma once
// Addition and multiplication of two tensors of codes: with c = code - zero_code of each operand,
//
//   t = product * c_a * c_b + left * c_a + right * c_b + constant
//   output = clamp(shift_right_half_even(t, shift) + zero_point, clamp_min, clamp_max)
//
// The output may be one of the operands itself; it may not overlap them otherwise. Work items are rows: batch * height
// of the output.
#include <cstdint>
#include <span>
#include <string_view>

#include "qstep/kernels/isa.h"
#include "qstep/kernels/layout.h"

namespace qstep::kernels {

struct BilinearProblem {
  int64_t product = 0;
  int64_t left = 0;
  int64_t right = 0;
  int64_t constant = 0;
  int32_t shift = 0;          ///< 0..62
  int32_t quant_max_a = 255;  ///< largest code of a, 0..255
  int32_t quant_max_b = 255;
  int32_t zero_code_a = 0;  ///< 0..quant_max_a
  int32_t zero_code_b = 0;
  int32_t zero_point = 0;  ///< of the output
  int32_t clamp_min = 0;
  int32_t clamp_max = 255;
};

struct BilinearArguments {
  const uint8_t* a = nullptr;
  ImageLayout a_layout;  ///< of the output's size
  const uint8_t* b = nullptr;
  /// Of the output's size, or broadcast: a stride of 0 repeats along its dimension. Sizes are not looked at.
  ImageLayout b_layout;
  int64_t b_channel_stride = 1;  ///< 1, or 0 to repeat one value over all channels
  uint8_t* output = nullptr;
  ImageLayout output_layout;
};

/// True for an addition of shifted operands: constant and product 0, left and right powers of two up to 2^22.
bool is_shift(const BilinearProblem& problem);

struct BilinearKernel {
  std::string_view name;
  Isa isa;
  bool (*supports)(const BilinearProblem&);
  void (*run)(const BilinearProblem&, const BilinearArguments&, Range items);
};

std::span<const BilinearKernel> bilinear_kernels();
const BilinearKernel& choose_bilinear(const BilinearProblem& problem, Isa isa = current_isa());

/// Throws Error where a parameter is out of the range given above, or where the magnitudes of the four terms of t may
/// add up to 2^53 or more: kernels rely on every integer between being exact in a double.
void validate(const BilinearProblem& problem);

}  // namespace qstep::kernels
