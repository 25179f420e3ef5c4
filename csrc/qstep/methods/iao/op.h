#pragma once
// What the CPU and the CUDA registration of IAO's ops share.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string_view>

#include "qstep/methods/iao/math.h"
#include "qstep/methods/tiling.h"

namespace qstep::methods::iao {

/// Throws unless `name` is "half_even" or "half_up".
Rounding rounding_from_name(std::string_view op, std::string_view name);

/// Everything that can be checked without looking at a value.
void check_arguments(std::string_view op, const at::Tensor& x, const at::Tensor& scale, const at::Tensor& zero_point,
                     int64_t quant_min, int64_t quant_max, std::optional<int64_t> axis);

/// The same for affine_params.
void check_ranges(const at::Tensor& min, const at::Tensor& max, int64_t quant_min, int64_t quant_max);

/// The tensors as memory: x dense, the parameters contiguous in the compute dtype.
struct Memory {
  at::Tensor x;
  at::Tensor scale;
  at::Tensor zero_point;
  Tiling tiling;
};
Memory memory_of(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& zero_point,
                 std::optional<int64_t> axis);

}  // namespace qstep::methods::iao
