#pragma once
// What the ops of all methods ask of their arguments, and how they see tensors as raw memory.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string_view>

#include "qstep/core/error.h"
#include "qstep/methods/half_types.h"
#include "qstep/methods/tiling.h"

namespace qstep::methods {

/// Throws unless quant_min < quant_max and both are exact in float32 (within +-2^23).
void check_codes(std::string_view op, int64_t quant_min, int64_t quant_max);

/// Throws unless x is float32, float64, bfloat16 or float16, and `axis`, where given, is one of its dimensions.
void check_input(std::string_view op, const at::Tensor& x, std::optional<int64_t> axis);

/// Throws unless `parameter` is on the device of x and has one element (axis not given; shape [] or [1]) or one per
/// channel (shape [size of x along axis]). Does not look at values and works on symbolic sizes.
void check_parameter(std::string_view op, std::string_view name, const at::Tensor& parameter, const at::Tensor& x,
                     std::optional<int64_t> axis);

/// Throws unless `parameter` has a floating dtype.
void check_floating(std::string_view op, std::string_view name, const at::Tensor& parameter);

/// Throws unless grad_output has the shape, dtype and device of x.
void check_grad_output(std::string_view op, const at::Tensor& grad_output, const at::Tensor& x);

/// Throws unless every value of a CPU tensor of float or double is finite and above 0.
void check_scale_values(std::string_view op, const at::Tensor& scale);

/// Throws unless every value of a CPU tensor of float or double is finite.
void check_finite(std::string_view op, std::string_view name, const at::Tensor& values);

/// The dtype that the arithmetic on `dtype` runs in: float32 for the 16-bit types.
at::ScalarType compute_dtype(at::ScalarType dtype);

/// x, or a copy of it, with the strides that at::empty_like gives: dense and in the order of its memory format.
at::Tensor dense(const at::Tensor& x);

/// `tensor`, or a copy of it, with the strides of `layout`, which is dense and of the same shape.
at::Tensor dense_as(const at::Tensor& tensor, const at::Tensor& layout);

/// An uninitialised tensor like x, which is dense, or of another dtype. Where it is large, its fresh memory is asked for in huge pages: on
/// Linux with transparent huge pages at "madvise" (the default of Debian and Ubuntu) touching 64 MiB for the first
/// time costs several times what the arithmetic on it does, and huge pages take nearly all of that away.
at::Tensor output_like(const at::Tensor& x, std::optional<at::ScalarType> dtype = std::nullopt);

/// A parameter as contiguous values of `dtype`.
at::Tensor values_of(const at::Tensor& parameter, at::ScalarType dtype);

/// How the memory of a dense tensor is divided among the channels along `axis`.
ChannelLayout channel_layout(const at::Tensor& x, std::optional<int64_t> axis);

/// Calls visitor(T{}) with the element type of `dtype`, one that check_input lets pass.
template <class Visitor>
decltype(auto) visit_dtype(at::ScalarType dtype, Visitor&& visitor) {
  switch (dtype) {
    case at::kDouble:
      return visitor(double{});
    case at::kBFloat16:
      return visitor(BFloat16{});
    case at::kHalf:
      return visitor(Float16{});
    default:
      return visitor(float{});
  }
}

/// The memory of a tensor whose dtype visit_dtype called T, or of its parameters in Compute<T>.
template <class T>
const T* read(const at::Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <class T>
T* write(at::Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace qstep::methods
