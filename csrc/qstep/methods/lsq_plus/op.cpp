// torch.ops.qstep.lsq_plus and lsq_plus_backward: schema, checks, Meta, CPU, autograd. The formulas are in math.h.
#include "qstep/methods/lsq_plus/op.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <string>
#include <tuple>

#include "qstep/methods/arguments.h"
#include "qstep/methods/functional.h"
#include "qstep/methods/lsq_plus/cpu.h"

namespace qstep::methods::lsq_plus {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using OptionalAxis = std::optional<int64_t>;
using Gradients = std::tuple<Tensor, Tensor, Tensor>;

Boundary boundary_from_name(std::string_view op, std::string_view name) {
  require(name == "strict" || name == "inclusive", "{}: boundary must be 'strict' or 'inclusive', got '{}'", op, name);
  return name == "strict" ? Boundary::strict : Boundary::inclusive;
}

void check_arguments(std::string_view op, const Tensor& x, const Tensor& scale, const OptionalTensor& offset,
                     int64_t quant_min, int64_t quant_max, OptionalAxis axis) {
  check_codes(op, quant_min, quant_max);
  check_input(op, x, axis);
  check_floating(op, "scale", scale);
  check_parameter(op, "scale", scale, x, axis);
  if (offset) {
    check_floating(op, "offset", *offset);
    check_parameter(op, "offset", *offset, x, axis);
  }
}

Memory memory_of(const Tensor& x, const Tensor& scale, const OptionalTensor& offset, OptionalAxis axis) {
  const at::ScalarType dtype = compute_dtype(x.scalar_type());
  const Tensor scale_values = values_of(scale, dtype);
  const Tensor memory = dense(x);
  return {memory, scale_values, offset ? values_of(*offset, dtype) : at::zeros_like(scale_values),
          Tiling(channel_layout(memory, axis))};
}

namespace {

constexpr std::string_view forward_name = "lsq_plus";
constexpr std::string_view backward_name = "lsq_plus_backward";

// --- Meta ------------------------------------------------------------------------------------------------------------

Tensor forward_meta(const Tensor& x, const Tensor& scale, const OptionalTensor& offset, int64_t quant_min,
                    int64_t quant_max, OptionalAxis axis, double /*grad_scale*/, std::string_view boundary) {
  check_arguments(forward_name, x, scale, offset, quant_min, quant_max, axis);
  boundary_from_name(forward_name, boundary);
  return at::empty_like(x);
}

Gradients backward_meta(const Tensor& grad_output, const Tensor& x, const Tensor& scale, const OptionalTensor& offset,
                        int64_t quant_min, int64_t quant_max, OptionalAxis axis, double /*grad_scale*/,
                        std::string_view boundary) {
  check_arguments(backward_name, x, scale, offset, quant_min, quant_max, axis);
  check_grad_output(backward_name, grad_output, x);
  boundary_from_name(backward_name, boundary);
  return {at::empty_like(x), at::empty_like(scale), at::empty_like(offset.value_or(scale))};
}

// --- CPU -------------------------------------------------------------------------------------------------------------

Memory checked_memory(std::string_view op, const Tensor& x, const Tensor& scale, const OptionalTensor& offset,
                      int64_t quant_min, int64_t quant_max, OptionalAxis axis) {
  check_arguments(op, x, scale, offset, quant_min, quant_max, axis);
  Memory memory = memory_of(x, scale, offset, axis);
  check_scale_values(op, memory.scale);
  check_finite(op, "offset", memory.offset);
  return memory;
}

template <class T>
Operands<T> operands_of(const Memory& memory, int64_t quant_min, int64_t quant_max) {
  return {read<T>(memory.x), read<Compute<T>>(memory.scale), read<Compute<T>>(memory.offset),
          static_cast<int32_t>(quant_min), static_cast<int32_t>(quant_max)};
}

Tensor forward_cpu(const Tensor& x, const Tensor& scale, const OptionalTensor& offset, int64_t quant_min,
                   int64_t quant_max, OptionalAxis axis, double /*grad_scale*/, std::string_view boundary) {
  const Memory memory = checked_memory(forward_name, x, scale, offset, quant_min, quant_max, axis);
  boundary_from_name(forward_name, boundary);
  Tensor output = output_like(memory.x);
  visit_dtype(x.scalar_type(), [&]<class T>(T) {
    const Operands<T> operands = operands_of<T>(memory, quant_min, quant_max);
    T* const target = write<T>(output);
    at::parallel_for(0, memory.tiling.tiles(), memory.tiling.grain(),
                     [&](int64_t first, int64_t last) { forward(operands, target, memory.tiling, first, last); });
  });
  return output;
}

/// Adds the partial sums of each channel in order; the result has the shape and dtype of `parameter`.
Tensor parameter_gradient(const Tensor& partial, const Tensor& parameter, double grad_scale) {
  Tensor sums = at::zeros_like(parameter, parameter.options().dtype(at::kDouble));
  const auto* const from = read<double>(partial);
  auto* const to = write<double>(sums);
  const int64_t channels = partial.size(1);
  for (int64_t row = 0; row < partial.size(0); ++row) {
    for (int64_t channel = 0; channel < channels; ++channel) to[channel] += from[row * channels + channel];
  }
  return sums.mul_(grad_scale).to(parameter.scalar_type());
}

Gradients backward_cpu(const Tensor& grad_output, const Tensor& x, const Tensor& scale, const OptionalTensor& offset,
                       int64_t quant_min, int64_t quant_max, OptionalAxis axis, double grad_scale,
                       std::string_view boundary_name) {
  const Memory memory = checked_memory(backward_name, x, scale, offset, quant_min, quant_max, axis);
  check_grad_output(backward_name, grad_output, x);
  const Boundary boundary = boundary_from_name(backward_name, boundary_name);
  const Tensor upstream = dense_as(grad_output, memory.x);
  Tensor grad_x = output_like(memory.x);
  const auto shape = {memory.tiling.partial_rows(), memory.tiling.layout().channels};
  Tensor scale_sums = at::empty(shape, scale.options().dtype(at::kDouble));
  Tensor offset_sums = at::empty_like(scale_sums);
  visit_dtype(x.scalar_type(), [&]<class T>(T) {
    const Operands<T> operands = operands_of<T>(memory, quant_min, quant_max);
    const T* const source = read<T>(upstream);
    T* const target = write<T>(grad_x);
    const PartialSums sums{write<double>(scale_sums), write<double>(offset_sums)};
    at::parallel_for(0, memory.tiling.tiles(), memory.tiling.grain(), [&](int64_t first, int64_t last) {
      backward(operands, boundary, source, target, sums, memory.tiling, first, last);
    });
  });
  return {grad_x, parameter_gradient(scale_sums, scale, grad_scale),
          parameter_gradient(offset_sums, offset.value_or(scale), grad_scale)};
}

// --- autograd --------------------------------------------------------------------------------------------------------

Tensor call_forward(const Tensor& x, const Tensor& scale, const OptionalTensor& offset, int64_t quant_min,
                    int64_t quant_max, OptionalAxis axis, double grad_scale, std::string_view boundary) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("qstep::lsq_plus", "").typed<decltype(forward_meta)>();
  return op.call(x, scale, offset, quant_min, quant_max, axis, grad_scale, boundary);
}

Gradients call_backward(const Tensor& grad_output, const Tensor& x, const Tensor& scale, const OptionalTensor& offset,
                        int64_t quant_min, int64_t quant_max, OptionalAxis axis, double grad_scale,
                        std::string_view boundary) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("qstep::lsq_plus_backward", "").typed<decltype(backward_meta)>();
  return op.call(grad_output, x, scale, offset, quant_min, quant_max, axis, grad_scale, boundary);
}

class Function : public torch::autograd::Function<Function> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& scale,
                        const OptionalTensor& offset, int64_t quant_min, int64_t quant_max, OptionalAxis axis,
                        double grad_scale, const std::string& boundary) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({x, scale, offset.value_or(Tensor())});
    context->saved_data["quant_min"] = quant_min;
    context->saved_data["quant_max"] = quant_max;
    context->saved_data["axis"] = axis;
    context->saved_data["grad_scale"] = grad_scale;
    context->saved_data["boundary"] = boundary;
    return call_forward(x, scale, offset, quant_min, quant_max, axis, grad_scale, boundary);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grad_outputs) {
    const auto saved = context->get_saved_variables();
    const bool has_offset = saved[2].defined();
    auto& options = context->saved_data;
    auto [grad_x, grad_scale, grad_offset] =
        call_backward(grad_outputs[0], saved[0], saved[1], has_offset ? OptionalTensor(saved[2]) : std::nullopt,
                      options["quant_min"].toInt(), options["quant_max"].toInt(), options["axis"].toOptional<int64_t>(),
                      options["grad_scale"].toDouble(), options["boundary"].toStringView());
    const Tensor none;
    return {grad_x, grad_scale, has_offset ? grad_offset : none, none, none, none, none, none};
  }
};

Tensor forward_autograd(const Tensor& x, const Tensor& scale, const OptionalTensor& offset, int64_t quant_min,
                        int64_t quant_max, OptionalAxis axis, double grad_scale, std::string_view boundary) {
  return Function::apply(x, scale, offset, quant_min, quant_max, axis, grad_scale, std::string(boundary));
}

}  // namespace
}  // namespace qstep::methods::lsq_plus

namespace qstep::functional {

at::Tensor lsq_plus(const at::Tensor& x, const at::Tensor& scale, const std::optional<at::Tensor>& offset,
                    const LsqPlusOptions& options) {
  return methods::lsq_plus::call_forward(x, scale, offset, options.quant_min, options.quant_max, options.axis,
                                         options.grad_scale, options.boundary);
}

}  // namespace qstep::functional

TORCH_LIBRARY_FRAGMENT(qstep, m) {
  m.def(
      "lsq_plus(Tensor x, Tensor scale, Tensor? offset=None, *, int quant_min, int quant_max, int? axis=None, "
      "float grad_scale=1.0, str boundary=\"strict\") -> Tensor");
  m.def(
      "lsq_plus_backward(Tensor grad_output, Tensor x, Tensor scale, Tensor? offset=None, *, int quant_min, int "
      "quant_max, "
      "int? axis=None, float grad_scale=1.0, str boundary=\"strict\") -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(qstep, Meta, m) {
  m.impl("lsq_plus", qstep::methods::lsq_plus::forward_meta);
  m.impl("lsq_plus_backward", qstep::methods::lsq_plus::backward_meta);
}

TORCH_LIBRARY_IMPL(qstep, CPU, m) {
  m.impl("lsq_plus", qstep::methods::lsq_plus::forward_cpu);
  m.impl("lsq_plus_backward", qstep::methods::lsq_plus::backward_cpu);
}

TORCH_LIBRARY_IMPL(qstep, Autograd, m) {
  m.impl("lsq_plus", qstep::methods::lsq_plus::forward_autograd);
  m.impl("lsq_plus_backward", torch::autograd::autogradNotImplementedFallback());
}
