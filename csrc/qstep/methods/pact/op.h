#pragma once
// What the CPU and the CUDA registration of PACT's ops share.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>

#include "qstep/methods/pact/math.h"
#include "qstep/methods/tiling.h"

namespace qstep::methods::pact {

/// Throws unless `name` is "pact" or "ste".
AlphaGradient gradient_from_name(std::string_view op, std::string_view name);

/// Everything that can be checked without looking at a value.
void check_arguments(std::string_view op, const at::Tensor& x, const at::Tensor& alpha, int64_t bit_width);

/// The tensors as memory: x dense, alpha in the compute dtype.
struct Memory {
  at::Tensor x;
  at::Tensor alpha;
  Tiling tiling;
};
Memory memory_of(const at::Tensor& x, const at::Tensor& alpha);

}  // namespace qstep::methods::pact
