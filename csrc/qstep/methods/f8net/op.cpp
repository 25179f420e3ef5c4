// torch.ops.qstep.fixed_point and its backward, and the small functions of formats: f8net_fraction_length, f8net_format,
// f8net_eta, power_of_two. Formulas: math.h.
#include "qstep/methods/f8net/op.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "qstep/methods/f8net/cpu.h"
#include "qstep/methods/functional.h"

namespace qstep::methods::f8net {

using at::Tensor;

Mask mask_from_name(std::string_view op, std::string_view name) {
  require(name == "pact" || name == "reference", "{}: mask must be 'pact' or 'reference', got '{}'", op, name);
  return name == "pact" ? Mask::pact : Mask::reference;
}

void check_arguments(std::string_view op, const Tensor& x, const Tensor& fraction_length, int64_t word_length) {
  check_input(op, x, std::nullopt);
  require(word_length >= 2 && word_length <= 8, "{}: word_length must be in [2, 8], got {}", op, word_length);
  require(at::isIntegralType(fraction_length.scalar_type(), /*includeBool=*/false),
          "{}: fraction_length must be an integer, got {}", op, c10::toString(fraction_length.scalar_type()));
  check_parameter(op, "fraction_length", fraction_length, x, std::nullopt);
}

Memory memory_of(const Tensor& x, const Tensor& fraction_length) {
  const Tensor memory = dense(x);
  return {memory, values_of(fraction_length, at::kInt), Tiling(channel_layout(memory, std::nullopt))};
}

namespace {

constexpr std::string_view forward_name = "fixed_point";
constexpr std::string_view backward_name = "fixed_point_backward";
constexpr std::string_view rule_name = "f8net_fraction_length";
constexpr std::string_view format_name = "f8net_format";

// --- fixed_point -----------------------------------------------------------------------------------------------------

Tensor forward_meta(const Tensor& x, const Tensor& fraction_length, int64_t word_length, bool /*is_signed*/,
                    std::string_view mask) {
  check_arguments(forward_name, x, fraction_length, word_length);
  mask_from_name(forward_name, mask);
  return at::empty_like(x);
}

Tensor backward_meta(const Tensor& grad_output, const Tensor& x, const Tensor& fraction_length, int64_t word_length,
                     bool /*is_signed*/, std::string_view mask) {
  check_arguments(backward_name, x, fraction_length, word_length);
  check_grad_output(backward_name, grad_output, x);
  mask_from_name(backward_name, mask);
  return at::empty_like(x);
}

Memory checked_memory(std::string_view op, const Tensor& x, const Tensor& fraction_length, int64_t word_length,
                      bool is_signed) {
  check_arguments(op, x, fraction_length, word_length);
  const auto length = fraction_length.item<int64_t>();
  const int32_t largest = largest_fraction_length(static_cast<int32_t>(word_length), is_signed);
  require(length >= 0 && length <= largest, "{}: fraction_length must be in [0, {}] for {} words of {} bits, got {}",
          op, largest, is_signed ? "signed" : "unsigned", word_length, length);
  return memory_of(x, fraction_length);
}

Tensor forward_cpu(const Tensor& x, const Tensor& fraction_length, int64_t word_length, bool is_signed,
                   std::string_view mask) {
  const Memory memory = checked_memory(forward_name, x, fraction_length, word_length, is_signed);
  mask_from_name(forward_name, mask);
  Tensor output = output_like(memory.x);
  visit_dtype(x.scalar_type(), [&]<class T>(T) {
    const auto operands = operands_of<T>(memory, word_length, is_signed);
    T* const target = write<T>(output);
    at::parallel_for(0, memory.tiling.tiles(), memory.tiling.grain(),
                     [&](int64_t first, int64_t last) { forward(operands, target, memory.tiling, first, last); });
  });
  return output;
}

Tensor backward_cpu(const Tensor& grad_output, const Tensor& x, const Tensor& fraction_length, int64_t word_length,
                    bool is_signed, std::string_view mask_name) {
  const Memory memory = checked_memory(backward_name, x, fraction_length, word_length, is_signed);
  check_grad_output(backward_name, grad_output, x);
  const Mask mask = mask_from_name(backward_name, mask_name);
  const Tensor upstream = dense_as(grad_output, memory.x);
  Tensor grad_x = output_like(memory.x);
  visit_dtype(x.scalar_type(), [&]<class T>(T) {
    const auto operands = operands_of<T>(memory, word_length, is_signed);
    const T* const source = read<T>(upstream);
    T* const target = write<T>(grad_x);
    at::parallel_for(0, memory.tiling.tiles(), memory.tiling.grain(), [&](int64_t first, int64_t last) {
      backward(operands, mask, source, target, memory.tiling, first, last);
    });
  });
  return grad_x;
}

Tensor call_forward(const Tensor& x, const Tensor& fraction_length, int64_t word_length, bool is_signed,
                    std::string_view mask) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("qstep::fixed_point", "").typed<decltype(forward_meta)>();
  return op.call(x, fraction_length, word_length, is_signed, mask);
}

Tensor call_backward(const Tensor& grad_output, const Tensor& x, const Tensor& fraction_length, int64_t word_length,
                     bool is_signed, std::string_view mask) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("qstep::fixed_point_backward", "")
                             .typed<decltype(backward_meta)>();
  return op.call(grad_output, x, fraction_length, word_length, is_signed, mask);
}

class Function : public torch::autograd::Function<Function> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& fraction_length,
                        int64_t word_length, bool is_signed, const std::string& mask) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({x, fraction_length});
    context->saved_data["word_length"] = word_length;
    context->saved_data["signed"] = is_signed;
    context->saved_data["mask"] = mask;
    return call_forward(x, fraction_length, word_length, is_signed, mask);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grad_outputs) {
    const auto saved = context->get_saved_variables();
    auto& options = context->saved_data;
    const Tensor grad_x = call_backward(grad_outputs[0], saved[0], saved[1], options["word_length"].toInt(),
                                        options["signed"].toBool(), options["mask"].toStringRef());
    const Tensor none;
    return {grad_x, none, none, none, none};
  }
};

Tensor forward_autograd(const Tensor& x, const Tensor& fraction_length, int64_t word_length, bool is_signed,
                        std::string_view mask) {
  return Function::apply(x, fraction_length, word_length, is_signed, std::string(mask));
}

// --- formats ---------------------------------------------------------------------------------------------------------

// The rule's thresholds, C / 2^f for f = 1 .. largest, are exact: the fraction length is how many of them are at least sd.
Tensor fraction_length_unchecked(const Tensor& std, bool is_signed) {
  check_floating(rule_name, "std", std);
  Tensor length = at::zeros_like(std, std.options().dtype(at::kInt));
  for (int32_t f = 1; f <= largest_fraction_length(8, is_signed); ++f) {
    length.add_(std.le(std::ldexp(rule_constant(is_signed), -f)));
  }
  return length;
}

Tensor fraction_length_cpu(const Tensor& std, bool is_signed) {
  check_floating(rule_name, "std", std);
  require(std.ge(0).all().item<bool>(), "{}: std must be a number that is not negative, got NaN or below 0", rule_name);
  return fraction_length_unchecked(std, is_signed);
}

Tensor fraction_length_autograd(const Tensor& std, bool is_signed) {
  const at::AutoDispatchBelowADInplaceOrView without_gradient;
  return functional::f8net_fraction_length(std, is_signed);
}

Tensor power_of_two(const Tensor& exponent) {
  return exponent.to(at::kInt).add(127).mul_(1 << 23).view(at::kFloat);  // the bits of a float with mantissa 1
}

// Unbiased; fewer than two elements have none, which counts as 0.
Tensor standard_deviation(const Tensor& x, bool rectified) {
  if (x.numel() < 2) return at::zeros({}, x.options().dtype(compute_dtype(x.scalar_type())));
  const Tensor sd = x.to(compute_dtype(x.scalar_type())).std();
  return rectified ? sd / std::sqrt(0.5 - 0.5 / std::numbers::pi) : sd;
}

// argmin returns the first of several minima. The root mean square orders formats as the sum of squares does.
Tensor search_format(const Tensor& x, int64_t word_length, bool is_signed) {
  std::vector<Tensor> errors;
  for (int32_t f = 0; f <= largest_fraction_length(static_cast<int32_t>(word_length), is_signed); ++f) {
    const Tensor length = at::full({}, f, x.options().dtype(at::kInt));
    errors.push_back((x - call_forward(x, length, word_length, is_signed, "pact")).square_().sum(at::kDouble));
  }
  const Tensor error = at::stack(errors);
  require(!error.device().is_cpu() || error.isfinite().all().item<bool>(), "{}: x must be finite, got NaN or infinity",
          format_name);
  return error.argmin().to(at::kInt);
}

Tensor format_of_tensor(const Tensor& x, int64_t word_length, bool is_signed, std::string_view rule, bool rectified) {
  const at::NoGradGuard without_gradient;
  check_input(format_name, x, std::nullopt);
  require(word_length >= 2 && word_length <= 8, "{}: word_length must be in [2, 8], got {}", format_name, word_length);
  require(rule == "std" || rule == "grid", "{}: rule must be 'std' or 'grid', got '{}'", format_name, rule);
  if (rule == "grid") return search_format(x.detach(), word_length, is_signed);
  require(word_length == 8, "{}: the rule 'std' is defined for word_length 8, got {}: use rule='grid'", format_name,
          word_length);
  return functional::f8net_fraction_length(standard_deviation(x.detach(), rectified && !is_signed), is_signed);
}

Tensor eta_of(const Tensor& alpha, const Tensor& exponent, int64_t levels) {
  require(levels > 0, "f8net_eta: levels must be positive, got {}", levels);
  return alpha.abs() / levels * power_of_two(exponent);
}

Tensor pact(const Tensor& x, const Tensor& alpha, const Tensor& fraction_length, int64_t word_length, bool is_signed,
            std::string_view mask) {
  check_arguments("f8net_pact", x, fraction_length, word_length);
  check_parameter("f8net_pact", "alpha", alpha, x, std::nullopt);
  const int32_t levels = largest_code(static_cast<int32_t>(word_length), is_signed);
  const Tensor eta = eta_of(alpha, fraction_length, levels).reshape({}).to(x.scalar_type());
  return call_forward(x / eta, fraction_length, word_length, is_signed, mask) * eta;
}

}  // namespace
}  // namespace qstep::methods::f8net

namespace qstep::functional {

using namespace methods::f8net;

at::Tensor fixed_point(const at::Tensor& x, const at::Tensor& fraction_length, const FixedPointOptions& options) {
  return call_forward(x, fraction_length, options.word_length, options.is_signed, options.mask);
}

at::Tensor fixed_point(const at::Tensor& x, int64_t fraction_length, const FixedPointOptions& options) {
  return fixed_point(x, at::full({}, fraction_length, x.options().dtype(at::kInt)), options);
}

at::Tensor f8net_fraction_length(const at::Tensor& std, bool is_signed) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("qstep::f8net_fraction_length", "")
                             .typed<decltype(fraction_length_cpu)>();
  return op.call(std, is_signed);
}

at::Tensor f8net_format(const at::Tensor& x, const F8NetFormatOptions& options) {
  return format_of_tensor(x, options.word_length, options.is_signed, options.rule, options.rectified);
}

at::Tensor f8net_eta(const at::Tensor& alpha, const at::Tensor& exponent, int64_t levels) {
  return eta_of(alpha, exponent, levels);
}

at::Tensor f8net_pact(const at::Tensor& x, const at::Tensor& alpha, const at::Tensor& fraction_length,
                      const FixedPointOptions& options) {
  return methods::f8net::pact(x, alpha, fraction_length, options.word_length, options.is_signed, options.mask);
}

at::Tensor power_of_two(const at::Tensor& exponent) { return methods::f8net::power_of_two(exponent); }

}  // namespace qstep::functional

TORCH_LIBRARY_FRAGMENT(qstep, m) {
  m.def(
      "fixed_point(Tensor x, Tensor fraction_length, *, int word_length=8, bool signed, str mask=\"pact\") -> Tensor");
  m.def(
      "fixed_point_backward(Tensor grad_output, Tensor x, Tensor fraction_length, *, int word_length=8, bool signed, "
      "str mask=\"pact\") -> Tensor");
  m.def("f8net_fraction_length(Tensor std, *, bool signed) -> Tensor");
  m.def("f8net_format(Tensor x, *, int word_length=8, bool signed, str rule=\"std\", bool rectified=False) -> Tensor",
        TORCH_FN(qstep::methods::f8net::format_of_tensor));
  m.def("f8net_eta(Tensor alpha, Tensor exponent, *, int levels) -> Tensor", TORCH_FN(qstep::methods::f8net::eta_of));
  m.def(
      "f8net_pact(Tensor x, Tensor alpha, Tensor fraction_length, *, int word_length=8, bool signed, str "
      "mask=\"pact\") -> Tensor",
      TORCH_FN(qstep::methods::f8net::pact));
  m.def("power_of_two(Tensor exponent) -> Tensor", TORCH_FN(qstep::methods::f8net::power_of_two));
}

TORCH_LIBRARY_IMPL(qstep, Meta, m) {
  m.impl("fixed_point", qstep::methods::f8net::forward_meta);
  m.impl("fixed_point_backward", qstep::methods::f8net::backward_meta);
}

TORCH_LIBRARY_IMPL(qstep, CPU, m) {
  m.impl("fixed_point", qstep::methods::f8net::forward_cpu);
  m.impl("fixed_point_backward", qstep::methods::f8net::backward_cpu);
  m.impl("f8net_fraction_length", qstep::methods::f8net::fraction_length_cpu);
}

// Built of ATen operations: CUDA and Meta, where values are not looked at.
TORCH_LIBRARY_IMPL(qstep, CompositeExplicitAutograd, m) {
  m.impl("f8net_fraction_length", qstep::methods::f8net::fraction_length_unchecked);
}

TORCH_LIBRARY_IMPL(qstep, Autograd, m) {
  m.impl("fixed_point", qstep::methods::f8net::forward_autograd);
  m.impl("fixed_point_backward", torch::autograd::autogradNotImplementedFallback());
  m.impl("f8net_fraction_length", qstep::methods::f8net::fraction_length_autograd);
}
