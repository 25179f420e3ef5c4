// torch.ops.qstep.fake_quantize_affine, its backward, and affine_params: schema, checks, Meta, CPU, autograd.
// Formulas: math.h.
#include "qstep/methods/iao/op.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <cmath>
#include <string>
#include <tuple>

#include "qstep/methods/arguments.h"
#include "qstep/methods/functional.h"
#include "qstep/methods/iao/cpu.h"

namespace qstep::methods::iao {

using at::Tensor;
using OptionalAxis = std::optional<int64_t>;

Rounding rounding_from_name(std::string_view op, std::string_view name) {
  require(name == "half_even" || name == "half_up", "{}: rounding must be 'half_even' or 'half_up', got '{}'", op,
          name);
  return name == "half_even" ? Rounding::half_even : Rounding::half_up;
}

void check_arguments(std::string_view op, const Tensor& x, const Tensor& scale, const Tensor& zero_point,
                     int64_t quant_min, int64_t quant_max, OptionalAxis axis) {
  check_codes(op, quant_min, quant_max);
  check_input(op, x, axis);
  check_floating(op, "scale", scale);
  check_parameter(op, "scale", scale, x, axis);
  require(at::isFloatingType(zero_point.scalar_type()) ||
              at::isIntegralType(zero_point.scalar_type(), /*includeBool=*/false),
          "{}: zero_point must be integer or floating, got {}", op, c10::toString(zero_point.scalar_type()));
  check_parameter(op, "zero_point", zero_point, x, axis);
}

void check_ranges(const Tensor& min, const Tensor& max, int64_t quant_min, int64_t quant_max) {
  check_codes("affine_params", quant_min, quant_max);
  check_floating("affine_params", "min", min);
  require(max.scalar_type() == min.scalar_type() && max.device() == min.device() && max.sym_sizes() == min.sym_sizes(),
          "affine_params: max must have the shape, dtype and device of min, {} {} {}, got {} {} {}",
          c10::str(min.sym_sizes()), c10::toString(min.scalar_type()), min.device().str(), c10::str(max.sym_sizes()),
          c10::toString(max.scalar_type()), max.device().str());
}

Memory memory_of(const Tensor& x, const Tensor& scale, const Tensor& zero_point, OptionalAxis axis) {
  const at::ScalarType dtype = compute_dtype(x.scalar_type());
  const Tensor memory = dense(x);
  return {memory, values_of(scale, dtype), values_of(zero_point, dtype), Tiling(channel_layout(memory, axis))};
}

namespace {

constexpr std::string_view forward_name = "fake_quantize_affine";
constexpr std::string_view backward_name = "fake_quantize_affine_backward";
constexpr std::string_view params_name = "affine_params";

// --- Meta ------------------------------------------------------------------------------------------------------------

Tensor forward_meta(const Tensor& x, const Tensor& scale, const Tensor& zero_point, int64_t quant_min,
                    int64_t quant_max, OptionalAxis axis, std::string_view rounding) {
  check_arguments(forward_name, x, scale, zero_point, quant_min, quant_max, axis);
  rounding_from_name(forward_name, rounding);
  return at::empty_like(x);
}

Tensor backward_meta(const Tensor& grad_output, const Tensor& x, const Tensor& scale, const Tensor& zero_point,
                     int64_t quant_min, int64_t quant_max, OptionalAxis axis) {
  check_arguments(backward_name, x, scale, zero_point, quant_min, quant_max, axis);
  check_grad_output(backward_name, grad_output, x);
  return at::empty_like(x);
}

std::tuple<Tensor, Tensor> params_meta(const Tensor& min, const Tensor& max, int64_t quant_min, int64_t quant_max,
                                       bool /*symmetric*/) {
  check_ranges(min, max, quant_min, quant_max);
  return {at::empty_like(min, min.options().dtype(compute_dtype(min.scalar_type()))),
          at::empty_like(min, min.options().dtype(at::kInt))};
}

// --- CPU -------------------------------------------------------------------------------------------------------------

Memory checked_memory(std::string_view op, const Tensor& x, const Tensor& scale, const Tensor& zero_point,
                      int64_t quant_min, int64_t quant_max, OptionalAxis axis) {
  check_arguments(op, x, scale, zero_point, quant_min, quant_max, axis);
  Memory memory = memory_of(x, scale, zero_point, axis);
  check_scale_values(op, memory.scale);
  const Tensor codes = memory.zero_point.to(at::kDouble);
  for (int64_t i = 0; i < codes.numel(); ++i) {
    const double code = codes.const_data_ptr<double>()[i];
    require(code == std::nearbyint(code) && code >= static_cast<double>(quant_min) &&
                code <= static_cast<double>(quant_max),
            "{}: zero_point must be an integer of [quant_min, quant_max] = [{}, {}], got {}", op, quant_min, quant_max,
            code);
  }
  return memory;
}

template <class T>
Operands<T> operands_of(const Memory& memory, int64_t quant_min, int64_t quant_max) {
  return {read<T>(memory.x), read<Compute<T>>(memory.scale), read<Compute<T>>(memory.zero_point),
          static_cast<int32_t>(quant_min), static_cast<int32_t>(quant_max)};
}

Tensor forward_cpu(const Tensor& x, const Tensor& scale, const Tensor& zero_point, int64_t quant_min, int64_t quant_max,
                   OptionalAxis axis, std::string_view rounding_name) {
  const Memory memory = checked_memory(forward_name, x, scale, zero_point, quant_min, quant_max, axis);
  const Rounding rounding = rounding_from_name(forward_name, rounding_name);
  Tensor output = output_like(memory.x);
  visit_dtype(x.scalar_type(), [&]<class T>(T) {
    const Operands<T> operands = operands_of<T>(memory, quant_min, quant_max);
    T* const target = write<T>(output);
    at::parallel_for(0, memory.tiling.tiles(), memory.tiling.grain(), [&](int64_t first, int64_t last) {
      forward(operands, rounding, target, memory.tiling, first, last);
    });
  });
  return output;
}

Tensor backward_cpu(const Tensor& grad_output, const Tensor& x, const Tensor& scale, const Tensor& zero_point,
                    int64_t quant_min, int64_t quant_max, OptionalAxis axis) {
  const Memory memory = checked_memory(backward_name, x, scale, zero_point, quant_min, quant_max, axis);
  check_grad_output(backward_name, grad_output, x);
  const Tensor upstream = dense_as(grad_output, memory.x);
  Tensor grad_x = output_like(memory.x);
  visit_dtype(x.scalar_type(), [&]<class T>(T) {
    const Operands<T> operands = operands_of<T>(memory, quant_min, quant_max);
    const T* const source = read<T>(upstream);
    T* const target = write<T>(grad_x);
    at::parallel_for(0, memory.tiling.tiles(), memory.tiling.grain(), [&](int64_t first, int64_t last) {
      backward(operands, source, target, memory.tiling, first, last);
    });
  });
  return grad_x;
}

std::tuple<Tensor, Tensor> params_cpu(const Tensor& min, const Tensor& max, int64_t quant_min, int64_t quant_max,
                                      bool symmetric) {
  check_ranges(min, max, quant_min, quant_max);
  const Tensor lows = values_of(min, at::kDouble);
  const Tensor highs = values_of(max, at::kDouble);
  check_finite(params_name, "min", lows);
  check_finite(params_name, "max", highs);
  Tensor scale = at::empty_like(lows);
  Tensor zero_point = at::empty_like(lows, lows.options().dtype(at::kInt));
  for (int64_t i = 0; i < lows.numel(); ++i) {
    const double low = read<double>(lows)[i];
    const double high = read<double>(highs)[i];
    require(low <= high, "{}: min must not be above max, got {} and {}", params_name, low, high);
    const auto first = static_cast<double>(quant_min);
    const auto last = static_cast<double>(quant_max);
    const ScaleAndZeroPoint params =
        symmetric ? symmetric_params(low, high, first, last) : affine_params(low, high, first, last);
    write<double>(scale)[i] = params.scale;
    write<int32_t>(zero_point)[i] = static_cast<int32_t>(params.zero_point);
  }
  return {scale.to(compute_dtype(min.scalar_type())), zero_point};
}

// --- autograd --------------------------------------------------------------------------------------------------------

Tensor call_forward(const Tensor& x, const Tensor& scale, const Tensor& zero_point, int64_t quant_min,
                    int64_t quant_max, OptionalAxis axis, std::string_view rounding) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("qstep::fake_quantize_affine", "").typed<decltype(forward_meta)>();
  return op.call(x, scale, zero_point, quant_min, quant_max, axis, rounding);
}

Tensor call_backward(const Tensor& grad_output, const Tensor& x, const Tensor& scale, const Tensor& zero_point,
                     int64_t quant_min, int64_t quant_max, OptionalAxis axis) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("qstep::fake_quantize_affine_backward", "")
                             .typed<decltype(backward_meta)>();
  return op.call(grad_output, x, scale, zero_point, quant_min, quant_max, axis);
}

std::tuple<Tensor, Tensor> call_params(const Tensor& min, const Tensor& max, int64_t quant_min, int64_t quant_max,
                                       bool symmetric) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("qstep::affine_params", "").typed<decltype(params_meta)>();
  return op.call(min, max, quant_min, quant_max, symmetric);
}

class Function : public torch::autograd::Function<Function> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& scale,
                        const Tensor& zero_point, int64_t quant_min, int64_t quant_max, OptionalAxis axis,
                        const std::string& rounding) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({x, scale, zero_point});
    context->saved_data["quant_min"] = quant_min;
    context->saved_data["quant_max"] = quant_max;
    context->saved_data["axis"] = axis;
    return call_forward(x, scale, zero_point, quant_min, quant_max, axis, rounding);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grad_outputs) {
    const auto saved = context->get_saved_variables();
    auto& options = context->saved_data;
    const Tensor grad_x = call_backward(grad_outputs[0], saved[0], saved[1], saved[2], options["quant_min"].toInt(),
                                        options["quant_max"].toInt(), options["axis"].toOptional<int64_t>());
    const Tensor none;
    return {grad_x, none, none, none, none, none, none};
  }
};

Tensor forward_autograd(const Tensor& x, const Tensor& scale, const Tensor& zero_point, int64_t quant_min,
                        int64_t quant_max, OptionalAxis axis, std::string_view rounding) {
  return Function::apply(x, scale, zero_point, quant_min, quant_max, axis, std::string(rounding));
}

std::tuple<Tensor, Tensor> params_autograd(const Tensor& min, const Tensor& max, int64_t quant_min, int64_t quant_max,
                                           bool symmetric) {
  const at::AutoDispatchBelowADInplaceOrView without_gradient;
  return call_params(min, max, quant_min, quant_max, symmetric);
}

}  // namespace
}  // namespace qstep::methods::iao

namespace qstep::functional {

at::Tensor fake_quantize_affine(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& zero_point,
                                const FakeQuantizeAffineOptions& options) {
  return methods::iao::call_forward(x, scale, zero_point, options.quant_min, options.quant_max, options.axis,
                                    options.rounding);
}

std::tuple<at::Tensor, at::Tensor> affine_params(const at::Tensor& min, const at::Tensor& max,
                                                 const AffineParamsOptions& options) {
  return methods::iao::call_params(min, max, options.quant_min, options.quant_max, options.symmetric);
}

}  // namespace qstep::functional

TORCH_LIBRARY_FRAGMENT(qstep, m) {
  m.def(
      "fake_quantize_affine(Tensor x, Tensor scale, Tensor zero_point, *, int quant_min, int quant_max, int? "
      "axis=None, "
      "str rounding=\"half_even\") -> Tensor");
  m.def(
      "fake_quantize_affine_backward(Tensor grad_output, Tensor x, Tensor scale, Tensor zero_point, *, int quant_min, "
      "int quant_max, int? axis=None) -> Tensor");
  m.def(
      "affine_params(Tensor min, Tensor max, *, int quant_min, int quant_max, bool symmetric=False) -> (Tensor scale, "
      "Tensor zero_point)");
}

TORCH_LIBRARY_IMPL(qstep, Meta, m) {
  m.impl("fake_quantize_affine", qstep::methods::iao::forward_meta);
  m.impl("fake_quantize_affine_backward", qstep::methods::iao::backward_meta);
  m.impl("affine_params", qstep::methods::iao::params_meta);
}

TORCH_LIBRARY_IMPL(qstep, CPU, m) {
  m.impl("fake_quantize_affine", qstep::methods::iao::forward_cpu);
  m.impl("fake_quantize_affine_backward", qstep::methods::iao::backward_cpu);
  m.impl("affine_params", qstep::methods::iao::params_cpu);
}

TORCH_LIBRARY_IMPL(qstep, Autograd, m) {
  m.impl("fake_quantize_affine", qstep::methods::iao::forward_autograd);
  m.impl("fake_quantize_affine_backward", torch::autograd::autogradNotImplementedFallback());
  m.impl("affine_params", qstep::methods::iao::params_autograd);
}
