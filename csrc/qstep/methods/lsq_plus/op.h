#pragma once
// What the CPU and the CUDA registration of the LSQ+ ops share.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string_view>

#include "qstep/methods/lsq_plus/math.h"
#include "qstep/methods/tiling.h"

namespace qstep::methods::lsq_plus {

/// Throws unless `name` is "strict" or "inclusive".
Boundary boundary_from_name(std::string_view op, std::string_view name);

/// Everything that can be checked without looking at a value.
void check_arguments(std::string_view op, const at::Tensor& x, const at::Tensor& scale,
                     const std::optional<at::Tensor>& offset, int64_t quant_min, int64_t quant_max,
                     std::optional<int64_t> axis);

/// The tensors as memory: x dense, the parameters contiguous in the compute dtype (offset 0 where there is none).
struct Memory {
  at::Tensor x;
  at::Tensor scale;
  at::Tensor offset;
  Tiling tiling;
};
Memory memory_of(const at::Tensor& x, const at::Tensor& scale, const std::optional<at::Tensor>& offset,
                 std::optional<int64_t> axis);

}  // namespace qstep::methods::lsq_plus
