#pragma once
// What the CPU and the CUDA registration of inq_quantize share.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>

#include "qstep/methods/tiling.h"

namespace qstep::methods::inq {

/// Throws unless bit_width is in [2, 5].
void check_bit_width(std::string_view op, int64_t bit_width);

/// Everything that inq_quantize can check without looking at a value.
void check_quantize(const at::Tensor& w, const at::Tensor& n1, int64_t bit_width);

/// The tensors as memory: w dense, n1 as int32.
struct Memory {
  at::Tensor w;
  at::Tensor n1;
  Tiling tiling;
};
Memory memory_of(const at::Tensor& w, const at::Tensor& n1);

}  // namespace qstep::methods::inq
