#pragma once
// What the CPU and the CUDA registration of the piecewise ops share.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string_view>

#include "qstep/methods/arguments.h"
#include "qstep/methods/pwlq/elements.h"

namespace qstep::methods::pwlq {

/// Throws unless `name` is "gaussian", "laplace", "optimal_gaussian" or "optimal_laplace".
Estimate estimate_from_name(std::string_view op, std::string_view name);

/// Everything of pwlq_quantize that can be checked without looking at a value.
void check_pieces(const at::Tensor& w, const at::Tensor& start, const at::Tensor& step, int64_t bit_width,
                  std::optional<int64_t> axis);

/// The same for pwlq_estimate.
void check_statistics(const at::Tensor& max, const at::Tensor& sd, int64_t breakpoints);

/// The tensors as memory: w dense, the pieces contiguous in the compute dtype.
struct Memory {
  at::Tensor w;
  at::Tensor start;
  at::Tensor step;
  Tiling tiling;
};
Memory memory_of(const at::Tensor& w, const at::Tensor& start, const at::Tensor& step, std::optional<int64_t> axis);

template <class T>
Operands<T> operands_of(const Memory& memory, int64_t bit_width) {
  return {read<T>(memory.w), read<Compute<T>>(memory.start), read<Compute<T>>(memory.step),
          static_cast<int32_t>(memory.start.size(-1)), largest_magnitude(bit_width)};
}

}  // namespace qstep::methods::pwlq
