// torch.ops.qstep.lsq_weight_scale and lsq_activation_init: first values of the learned parameters. No gradients.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/var_mean.h>
#include <ATen/ops/where.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>
#include <tuple>
#include <vector>

#include "qstep/methods/arguments.h"
#include "qstep/methods/functional.h"
#include "qstep/methods/lsq_plus/initialization.h"

namespace qstep::methods::lsq_plus {
namespace {

using at::Tensor;
using OptionalAxis = std::optional<int64_t>;
using TwoTensors = std::tuple<Tensor, Tensor>;

constexpr std::string_view weight_name = "lsq_weight_scale";
constexpr std::string_view activation_name = "lsq_activation_init";

// --- weights ---------------------------------------------------------------------------------------------------------

void check_weight(const Tensor& w, int64_t quant_min, int64_t quant_max, OptionalAxis axis, std::string_view rule) {
  check_codes(weight_name, quant_min, quant_max);
  require(quant_max > 0, "{}: quant_max must be above 0, got {}", weight_name, quant_max);
  check_input(weight_name, w, axis);
  require(rule == "lsq_plus" || rule == "lsq", "{}: rule must be 'lsq_plus' or 'lsq', got '{}'", weight_name, rule);
}

Tensor weight_scale_meta(const Tensor& w, int64_t quant_min, int64_t quant_max, OptionalAxis axis,
                         std::string_view rule) {
  check_weight(w, quant_min, quant_max, axis, rule);
  std::vector<c10::SymInt> shape;
  if (axis) shape.push_back(w.sym_size(*axis));
  return at::empty_symint(shape, w.options().dtype(compute_dtype(w.scalar_type())));
}

Tensor weight_scale(const Tensor& w, int64_t quant_min, int64_t quant_max, OptionalAxis axis, std::string_view rule) {
  check_weight(w, quant_min, quant_max, axis, rule);
  const at::ScalarType dtype = compute_dtype(w.scalar_type());
  const int64_t channels = axis ? w.size(*axis) : 1;
  std::vector<int64_t> shape;
  if (axis) shape.push_back(channels);
  if (w.numel() == 0) return at::full(shape, 1.0, w.options().dtype(dtype));

  const Tensor rows = (axis ? w.movedim(*axis, 0) : w).to(dtype).reshape({channels, -1});
  Tensor scale;
  if (rule == "lsq") {
    scale = rows.abs().mean(1).mul_(2.0 / std::sqrt(static_cast<double>(quant_max)));
  } else {
    const auto [variance, mean] =
        at::var_mean(rows, /*dim=*/at::OptionalIntArrayRef({1}), /*correction=*/at::Scalar(0));
    const Tensor three_sigma = variance.sqrt().mul_(3.0);
    scale = at::maximum((mean - three_sigma).abs(), (mean + three_sigma).abs())
                .div_(static_cast<double>(std::max(-quant_min, quant_max)));
  }
  const Tensor is_usable = scale >= static_cast<double>(std::numeric_limits<float>::min());  // false for NaN as well
  if (w.device().is_cpu()) check_finite(weight_name, "w", scale);
  return at::where(is_usable, scale, 1.0).to(dtype).reshape(shape);
}

// --- activations -----------------------------------------------------------------------------------------------------

void check_activation(const Tensor& x, int64_t quant_min, int64_t quant_max, std::string_view method) {
  check_codes(activation_name, quant_min, quant_max);
  check_input(activation_name, x, std::nullopt);
  require(method == "mse" || method == "min_max", "{}: method must be 'mse' or 'min_max', got '{}'", activation_name,
          method);
}

TwoTensors activation_init_meta(const Tensor& x, int64_t quant_min, int64_t quant_max, bool /*learn_offset*/,
                                std::string_view method) {
  check_activation(x, quant_min, quant_max, method);
  const auto options = x.options().dtype(compute_dtype(x.scalar_type()));
  return {at::empty({}, options), at::empty({}, options)};
}

TwoTensors activation_init(const Tensor& x, int64_t quant_min, int64_t quant_max, bool learn_offset,
                           std::string_view method) {
  check_activation(x, quant_min, quant_max, method);
  ScaleAndOffset initial;
  if (x.numel() > 0) {
    const auto [lowest, highest] = x.aminmax();
    const auto min = lowest.item<float>();
    const auto max = highest.item<float>();
    require(std::isfinite(min) && std::isfinite(max), "{}: x must be finite, got values from {} to {}", activation_name,
            min, max);
    if (method == "min_max") {
      initial = min_max_grid(min, max, static_cast<int32_t>(quant_min), static_cast<int32_t>(quant_max), learn_offset);
    } else {
      const std::vector<int64_t> positions = sample_positions(x.numel());
      const Tensor sample =
          x.reshape({-1}).index_select(0, at::tensor(positions, x.options().dtype(at::kLong))).to(at::kCPU, at::kFloat);
      const auto* const values = read<float>(sample);
      initial = least_error_grid(std::vector<float>(values, values + sample.numel()), static_cast<int32_t>(quant_min),
                                 static_cast<int32_t>(quant_max), learn_offset);
    }
  }
  const auto options = x.options().dtype(compute_dtype(x.scalar_type()));
  return {at::full({}, initial.scale, options), at::full({}, initial.offset, options)};
}

// --- calls -----------------------------------------------------------------------------------------------------------

Tensor call_weight_scale(const Tensor& w, int64_t quant_min, int64_t quant_max, OptionalAxis axis,
                         std::string_view rule) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("qstep::lsq_weight_scale", "").typed<decltype(weight_scale)>();
  return op.call(w, quant_min, quant_max, axis, rule);
}

TwoTensors call_activation_init(const Tensor& x, int64_t quant_min, int64_t quant_max, bool learn_offset,
                                std::string_view method) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("qstep::lsq_activation_init", "")
                             .typed<decltype(activation_init)>();
  return op.call(x, quant_min, quant_max, learn_offset, method);
}

Tensor weight_scale_autograd(const Tensor& w, int64_t quant_min, int64_t quant_max, OptionalAxis axis,
                             std::string_view rule) {
  const at::AutoDispatchBelowADInplaceOrView without_gradient;
  return call_weight_scale(w, quant_min, quant_max, axis, rule);
}

TwoTensors activation_init_autograd(const Tensor& x, int64_t quant_min, int64_t quant_max, bool learn_offset,
                                    std::string_view method) {
  const at::AutoDispatchBelowADInplaceOrView without_gradient;
  return call_activation_init(x, quant_min, quant_max, learn_offset, method);
}

}  // namespace
}  // namespace qstep::methods::lsq_plus

namespace qstep::functional {

at::Tensor lsq_weight_scale(const at::Tensor& w, const LsqWeightScaleOptions& options) {
  return methods::lsq_plus::call_weight_scale(w, options.quant_min, options.quant_max, options.axis, options.rule);
}

std::tuple<at::Tensor, at::Tensor> lsq_activation_init(const at::Tensor& x, const LsqActivationInitOptions& options) {
  return methods::lsq_plus::call_activation_init(x, options.quant_min, options.quant_max, options.learn_offset,
                                                 options.method);
}

}  // namespace qstep::functional

TORCH_LIBRARY_FRAGMENT(qstep, m) {
  m.def("lsq_weight_scale(Tensor w, *, int quant_min, int quant_max, int? axis=None, str rule=\"lsq_plus\") -> Tensor");
  m.def(
      "lsq_activation_init(Tensor x, *, int quant_min, int quant_max, bool learn_offset, str method=\"mse\") "
      "-> (Tensor scale, Tensor offset)");
}

TORCH_LIBRARY_IMPL(qstep, Meta, m) {
  m.impl("lsq_weight_scale", qstep::methods::lsq_plus::weight_scale_meta);
  m.impl("lsq_activation_init", qstep::methods::lsq_plus::activation_init_meta);
}

TORCH_LIBRARY_IMPL(qstep, CompositeExplicitAutograd, m) {
  m.impl("lsq_weight_scale", qstep::methods::lsq_plus::weight_scale);
  m.impl("lsq_activation_init", qstep::methods::lsq_plus::activation_init);
}

TORCH_LIBRARY_IMPL(qstep, Autograd, m) {
  m.impl("lsq_weight_scale", qstep::methods::lsq_plus::weight_scale_autograd);
  m.impl("lsq_activation_init", qstep::methods::lsq_plus::activation_init_autograd);
}
