// torch.ops.qstep.pact, pact_backward and pact_scale: schema, checks, Meta, CPU, autograd. Formulas: math.h.
#include "qstep/methods/pact/op.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <cmath>
#include <numeric>
#include <string>
#include <tuple>

#include "qstep/methods/arguments.h"
#include "qstep/methods/functional.h"
#include "qstep/methods/pact/cpu.h"

namespace qstep::methods::pact {

using at::Tensor;
using Gradients = std::tuple<Tensor, Tensor>;

AlphaGradient gradient_from_name(std::string_view op, std::string_view name) {
  require(name == "pact" || name == "ste", "{}: gradient must be 'pact' or 'ste', got '{}'", op, name);
  return name == "pact" ? AlphaGradient::pact : AlphaGradient::ste;
}

namespace {

constexpr std::string_view forward_name = "pact";
constexpr std::string_view backward_name = "pact_backward";
constexpr std::string_view scale_name = "pact_scale";

void check_bit_width(std::string_view op, int64_t bit_width) {
  require(bit_width >= 2 && bit_width <= 8, "{}: bit_width must be in [2, 8], got {}", op, bit_width);
}

}  // namespace

void check_arguments(std::string_view op, const Tensor& x, const Tensor& alpha, int64_t bit_width) {
  check_bit_width(op, bit_width);
  check_input(op, x, std::nullopt);
  check_floating(op, "alpha", alpha);
  check_parameter(op, "alpha", alpha, x, std::nullopt);
}

Memory memory_of(const Tensor& x, const Tensor& alpha) {
  const Tensor memory = dense(x);
  return {memory, values_of(alpha, compute_dtype(x.scalar_type())), Tiling(channel_layout(memory, std::nullopt))};
}

namespace {

// --- Meta ------------------------------------------------------------------------------------------------------------

Tensor forward_meta(const Tensor& x, const Tensor& alpha, int64_t bit_width, bool /*is_signed*/,
                    std::string_view gradient) {
  check_arguments(forward_name, x, alpha, bit_width);
  gradient_from_name(forward_name, gradient);
  return at::empty_like(x);
}

Gradients backward_meta(const Tensor& grad_output, const Tensor& x, const Tensor& alpha, int64_t bit_width,
                        bool /*is_signed*/, std::string_view gradient) {
  check_arguments(backward_name, x, alpha, bit_width);
  check_grad_output(backward_name, grad_output, x);
  gradient_from_name(backward_name, gradient);
  return {at::empty_like(x), at::empty_like(alpha)};
}

// --- CPU -------------------------------------------------------------------------------------------------------------

template <class T>
Operands<T> operands_of(const Memory& memory, int64_t bit_width, bool is_signed) {
  return {read<T>(memory.x), read<Compute<T>>(memory.alpha), levels(bit_width, is_signed), is_signed};
}

/// Throws unless alpha is finite and so far above 0 that its step is, too.
template <class T>
void check_alpha(std::string_view op, const Operands<T>& operands) {
  const auto grid = operands.grid(0);
  require(std::isfinite(grid.alpha) && grid.scale > 0, "{}: alpha must be finite and alpha / {} above 0, got alpha {}",
          op, operands.levels, grid.alpha);
}

Tensor forward_cpu(const Tensor& x, const Tensor& alpha, int64_t bit_width, bool is_signed, std::string_view gradient) {
  check_arguments(forward_name, x, alpha, bit_width);
  gradient_from_name(forward_name, gradient);
  const Memory memory = memory_of(x, alpha);
  Tensor output = output_like(memory.x);
  visit_dtype(x.scalar_type(), [&]<class T>(T) {
    const Operands<T> operands = operands_of<T>(memory, bit_width, is_signed);
    check_alpha(forward_name, operands);
    T* const target = write<T>(output);
    at::parallel_for(0, memory.tiling.tiles(), memory.tiling.grain(),
                     [&](int64_t first, int64_t last) { forward(operands, target, memory.tiling, first, last); });
  });
  return output;
}

Gradients backward_cpu(const Tensor& grad_output, const Tensor& x, const Tensor& alpha, int64_t bit_width,
                       bool is_signed, std::string_view gradient) {
  check_arguments(backward_name, x, alpha, bit_width);
  check_grad_output(backward_name, grad_output, x);
  const AlphaGradient kind = gradient_from_name(backward_name, gradient);
  const Memory memory = memory_of(x, alpha);
  const Tensor upstream = dense_as(grad_output, memory.x);
  Tensor grad_x = output_like(memory.x);
  const int64_t rows = memory.tiling.partial_rows();
  Tensor partial = at::empty({2, rows}, alpha.options().dtype(at::kDouble));
  auto* const sums = write<double>(partial);
  visit_dtype(x.scalar_type(), [&]<class T>(T) {
    const Operands<T> operands = operands_of<T>(memory, bit_width, is_signed);
    check_alpha(backward_name, operands);
    const T* const source = read<T>(upstream);
    T* const target = write<T>(grad_x);
    at::parallel_for(0, memory.tiling.tiles(), memory.tiling.grain(), [&](int64_t first, int64_t last) {
      backward(operands, kind, source, target, {sums, sums + rows}, memory.tiling, first, last);
    });
  });
  return {grad_x, at::full(alpha.sizes(), std::accumulate(sums, sums + rows, 0.0), alpha.options())};
}

// --- scale -----------------------------------------------------------------------------------------------------------

Tensor scale(const Tensor& alpha, int64_t bit_width, bool is_signed) {
  check_bit_width(scale_name, bit_width);
  check_floating(scale_name, "alpha", alpha);
  const Tensor values = alpha.to(compute_dtype(alpha.scalar_type()));
  // By a tensor: a division by a number may become a product with its reciprocal, which rounds twice.
  return values / at::full_like(values, levels(bit_width, is_signed));
}

// --- autograd --------------------------------------------------------------------------------------------------------

Tensor call_forward(const Tensor& x, const Tensor& alpha, int64_t bit_width, bool is_signed,
                    std::string_view gradient) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("qstep::pact", "").typed<decltype(forward_meta)>();
  return op.call(x, alpha, bit_width, is_signed, gradient);
}

Gradients call_backward(const Tensor& grad_output, const Tensor& x, const Tensor& alpha, int64_t bit_width,
                        bool is_signed, std::string_view gradient) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("qstep::pact_backward", "").typed<decltype(backward_meta)>();
  return op.call(grad_output, x, alpha, bit_width, is_signed, gradient);
}

Tensor call_scale(const Tensor& alpha, int64_t bit_width, bool is_signed) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("qstep::pact_scale", "").typed<decltype(scale)>();
  return op.call(alpha, bit_width, is_signed);
}

class Function : public torch::autograd::Function<Function> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& alpha,
                        int64_t bit_width, bool is_signed, const std::string& gradient) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({x, alpha});
    context->saved_data["bit_width"] = bit_width;
    context->saved_data["signed"] = is_signed;
    context->saved_data["gradient"] = gradient;
    return call_forward(x, alpha, bit_width, is_signed, gradient);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grad_outputs) {
    const auto saved = context->get_saved_variables();
    auto& options = context->saved_data;
    auto [grad_x, grad_alpha] = call_backward(grad_outputs[0], saved[0], saved[1], options["bit_width"].toInt(),
                                              options["signed"].toBool(), options["gradient"].toStringView());
    const Tensor none;
    return {grad_x, grad_alpha, none, none, none};
  }
};

Tensor forward_autograd(const Tensor& x, const Tensor& alpha, int64_t bit_width, bool is_signed,
                        std::string_view gradient) {
  return Function::apply(x, alpha, bit_width, is_signed, std::string(gradient));
}

Tensor scale_autograd(const Tensor& alpha, int64_t bit_width, bool is_signed) {
  const at::AutoDispatchBelowADInplaceOrView without_gradient;
  return call_scale(alpha, bit_width, is_signed);
}

}  // namespace
}  // namespace qstep::methods::pact

namespace qstep::functional {

at::Tensor pact(const at::Tensor& x, const at::Tensor& alpha, const PactOptions& options) {
  return methods::pact::call_forward(x, alpha, options.bit_width, options.is_signed, options.gradient);
}

at::Tensor pact_scale(const at::Tensor& alpha, int64_t bit_width, bool is_signed) {
  return methods::pact::call_scale(alpha, bit_width, is_signed);
}

}  // namespace qstep::functional

TORCH_LIBRARY_FRAGMENT(qstep, m) {
  m.def("pact(Tensor x, Tensor alpha, *, int bit_width, bool signed=False, str gradient=\"pact\") -> Tensor");
  m.def(
      "pact_backward(Tensor grad_output, Tensor x, Tensor alpha, *, int bit_width, bool signed=False, str "
      "gradient=\"pact\") -> (Tensor, Tensor)");
  m.def("pact_scale(Tensor alpha, *, int bit_width, bool signed=False) -> Tensor");
}

TORCH_LIBRARY_IMPL(qstep, Meta, m) {
  m.impl("pact", qstep::methods::pact::forward_meta);
  m.impl("pact_backward", qstep::methods::pact::backward_meta);
}

TORCH_LIBRARY_IMPL(qstep, CPU, m) {
  m.impl("pact", qstep::methods::pact::forward_cpu);
  m.impl("pact_backward", qstep::methods::pact::backward_cpu);
}

TORCH_LIBRARY_IMPL(qstep, CompositeExplicitAutograd, m) { m.impl("pact_scale", qstep::methods::pact::scale); }

TORCH_LIBRARY_IMPL(qstep, Autograd, m) {
  m.impl("pact", qstep::methods::pact::forward_autograd);
  m.impl("pact_backward", torch::autograd::autogradNotImplementedFallback());
  m.impl("pact_scale", qstep::methods::pact::scale_autograd);
}
