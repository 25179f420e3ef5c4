#pragma once
// What the CPU and the CUDA registration of F8Net's ops share.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>

#include "qstep/methods/arguments.h"
#include "qstep/methods/f8net/elements.h"
#include "qstep/methods/tiling.h"

namespace qstep::methods::f8net {

/// Throws unless `name` is "pact" or "reference".
Mask mask_from_name(std::string_view op, std::string_view name);

/// Everything that can be checked without looking at a value.
void check_arguments(std::string_view op, const at::Tensor& x, const at::Tensor& fraction_length, int64_t word_length);

/// The tensors as memory: x dense, the fraction length as int32.
struct Memory {
  at::Tensor x;
  at::Tensor fraction_length;
  Tiling tiling;
};
Memory memory_of(const at::Tensor& x, const at::Tensor& fraction_length);

template <class T>
Operands<T> operands_of(const Memory& memory, int64_t word_length, bool is_signed) {
  return {read<T>(memory.x), read<int32_t>(memory.fraction_length), static_cast<int32_t>(word_length), is_signed};
}

}  // namespace qstep::methods::f8net
