#include "qstep/methods/arguments.h"

#include <ATen/ops/empty_like.h>

#include <cmath>
#include <cstdint>
#include <string>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace qstep::methods {
namespace {

std::string dtype_name(const at::Tensor& tensor) { return c10::str(tensor.scalar_type()); }
std::string shape_of(const at::Tensor& tensor) { return c10::str(tensor.sym_sizes()); }

/// Calls check(value) on each value of a CPU tensor of float or double.
template <class Check>
void for_each_value(const at::Tensor& tensor, Check check) {
  const at::Tensor values = tensor.contiguous();
  for (int64_t i = 0; i < values.numel(); ++i) {
    check(values.scalar_type() == at::kDouble ? values.const_data_ptr<double>()[i] : values.const_data_ptr<float>()[i]);
  }
}

}  // namespace

void check_codes(std::string_view op, int64_t quant_min, int64_t quant_max) {
  constexpr int64_t limit = int64_t{1} << 23;
  require(quant_min < quant_max, "{}: quant_min must be below quant_max, got {} and {}", op, quant_min, quant_max);
  require(quant_min >= -limit && quant_max <= limit, "{}: quant_min and quant_max must be within +-2^23, got {} and {}",
          op, quant_min, quant_max);
}

void check_input(std::string_view op, const at::Tensor& x, std::optional<int64_t> axis) {
  const at::ScalarType dtype = x.scalar_type();
  require(dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16 || dtype == at::kHalf,
          "{}: x must be float32, float64, bfloat16 or float16, got {}", op, dtype_name(x));
  require(!axis || (*axis >= -x.dim() && *axis < x.dim()), "{}: axis must be a dimension of x, which has {}, got {}",
          op, x.dim(), axis.value_or(0));
}

void check_parameter(std::string_view op, std::string_view name, const at::Tensor& parameter, const at::Tensor& x,
                     std::optional<int64_t> axis) {
  require(parameter.device() == x.device(), "{}: {} must be on the device of x, {}, got {}", op, name, x.device().str(),
          parameter.device().str());
  if (axis) {
    const c10::SymInt channels = x.sym_size(*axis);
    require(parameter.dim() == 1 && parameter.sym_size(0) == channels,
            "{}: {} must have shape [{}], one element per channel, got {}", op, name, c10::str(channels),
            shape_of(parameter));
  } else {
    require(parameter.dim() <= 1 && parameter.sym_numel() == 1,
            "{}: {} must have one element (shape [] or [1]) where axis is not given, got shape {}", op, name,
            shape_of(parameter));
  }
}

void check_floating(std::string_view op, std::string_view name, const at::Tensor& parameter) {
  require(at::isFloatingType(parameter.scalar_type()), "{}: {} must be floating, got {}", op, name,
          dtype_name(parameter));
}

void check_grad_output(std::string_view op, const at::Tensor& grad_output, const at::Tensor& x) {
  require(grad_output.sym_sizes() == x.sym_sizes(), "{}: grad_output must have the shape of x, {}, got {}", op,
          shape_of(x), shape_of(grad_output));
  require(grad_output.scalar_type() == x.scalar_type(), "{}: grad_output must have the dtype of x, {}, got {}", op,
          dtype_name(x), dtype_name(grad_output));
  require(grad_output.device() == x.device(), "{}: grad_output must be on the device of x, {}, got {}", op,
          x.device().str(), grad_output.device().str());
}

void check_scale_values(std::string_view op, const at::Tensor& scale) {
  for_each_value(scale, [&](double value) {
    require(std::isfinite(value) && value > 0.0, "{}: scale must be finite and above 0, got {}", op, value);
  });
}

void check_finite(std::string_view op, std::string_view name, const at::Tensor& values) {
  for_each_value(
      values, [&](double value) { require(std::isfinite(value), "{}: {} must be finite, got {}", op, name, value); });
}

at::ScalarType compute_dtype(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

at::Tensor dense(const at::Tensor& x) { return x.is_non_overlapping_and_dense() ? x : at::empty_like(x).copy_(x); }

at::Tensor dense_as(const at::Tensor& tensor, const at::Tensor& layout) {
  return tensor.strides() == layout.strides() ? tensor : at::empty_like(layout).copy_(tensor);
}

at::Tensor output_like(const at::Tensor& x, std::optional<at::ScalarType> dtype) {
  at::Tensor output = dtype ? at::empty_like(x, *dtype) : at::empty_like(x);
#if defined(__linux__)
  // Allocators map memory of this size anew for each request, so no page of it has been touched. Advice may fail;
  // nothing follows.
  constexpr uintptr_t fresh_mapping = uintptr_t{32} << 20;
  constexpr uintptr_t huge_page = uintptr_t{2} << 20;
  if (output.device().is_cpu() && output.nbytes() >= fresh_mapping) {
    const auto begin = reinterpret_cast<uintptr_t>(output.data_ptr());
    const uintptr_t first = (begin + huge_page - 1) / huge_page * huge_page;
    const uintptr_t last = (begin + output.nbytes()) / huge_page * huge_page;
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
  }
#endif
  return output;
}

at::Tensor values_of(const at::Tensor& parameter, at::ScalarType dtype) { return parameter.to(dtype).contiguous(); }

ChannelLayout channel_layout(const at::Tensor& x, std::optional<int64_t> axis) {
  const int64_t elements = x.numel();
  const int64_t channels = axis ? x.size(*axis) : 1;
  if (elements == 0 || channels == 1) return {.outer = 1, .channels = channels, .inner = elements};
  const int64_t inner = x.stride(*axis);
  return {.outer = elements / (channels * inner), .channels = channels, .inner = inner};
}

}  // namespace qstep::methods
