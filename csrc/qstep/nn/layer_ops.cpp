#include "qstep/nn/layer_ops.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <vector>

#include "qstep/core/error.h"
#include "qstep/core/requantize.h"

namespace qstep::nn {
namespace {

using at::IntArrayRef;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor per_channel(const Tensor& t, int64_t dimensions) {
  std::vector<int64_t> shape(static_cast<size_t>(dimensions), 1);
  shape[0] = -1;
  return t.reshape(shape);
}

// x - residual, or x itself where the grid has no residual.
Tensor centered(const Tensor& x, const std::optional<Tensor>& residual) {
  return residual ? x - residual->to(x.dtype()) : x;
}

Tensor codes_of(const Tensor& values, const Tensor& scale) { return values.div(scale).round_(); }

// In place from the second pass over memory on: a layer's input is its largest tensor.
Tensor input_codes(const Tensor& x, const std::optional<Tensor>& residual, const Tensor& scale) {
  return residual ? centered(x, residual).div_(scale).round_() : codes_of(x, scale);
}

// Scales the integer sums in place: one pass over memory. unit: 1 or O elements, shaped [-1], or [-1, 1, 1] for images.
Tensor scaled(Tensor sums, const Tensor& unit, const std::optional<Tensor>& bias) {
  if (!bias) return sums.mul_(unit);
  return at::addcmul_out(sums, per_channel(bias->to(sums.dtype()), unit.dim()), sums, unit);
}

bool symmetric(IntArrayRef padding) { return padding[0] == padding[2] && padding[1] == padding[3]; }

// Asymmetric padding is not a convolution argument of ATen: pad first.
Tensor padded(const Tensor& x, IntArrayRef padding) {
  return symmetric(padding) ? x : at::constant_pad_nd(x, {padding[1], padding[3], padding[0], padding[2]});
}

std::vector<int64_t> convolution_padding(IntArrayRef padding) {
  return symmetric(padding) ? std::vector<int64_t>{padding[0], padding[1]} : std::vector<int64_t>{0, 0};
}

// torch.compile traces with sizes that have no value yet; what they must be is checked when they have.
bool sizes_unknown(const Tensor& x, const Tensor& weight) {
  return x.unsafeGetTensorImpl()->has_symbolic_sizes_strides() ||
         weight.unsafeGetTensorImpl()->has_symbolic_sizes_strides();
}

Tensor rows_of(const Tensor& t) { return t.dim() == 1 ? t.unsqueeze(0) : t.flatten(0, -2); }

void check_layer(const char* op, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                 const Tensor& input_scale, const Tensor& weight_scale) {
  require(x.is_floating_point() && weight.is_floating_point(), "{}: x and weight must be floating point, got {} and {}",
          op, c10::toString(x.scalar_type()), c10::toString(weight.scalar_type()));
  require(x.scalar_type() == weight.scalar_type(), "{}: x and weight must have one dtype, got {} and {}", op,
          c10::toString(x.scalar_type()), c10::toString(weight.scalar_type()));
  require(x.device() == weight.device() && x.device() == input_scale.device() && x.device() == weight_scale.device(),
          "{}: x, weight and scales must be on one device, got {}, {}, {} and {}", op, x.device().str(),
          weight.device().str(), input_scale.device().str(), weight_scale.device().str());
  if (sizes_unknown(x, weight)) return;
  require(input_scale.numel() == 1, "{}: input_scale must have one element, got {}", op, input_scale.numel());
  require(weight_scale.numel() == 1 || weight_scale.numel() == weight.size(0),
          "{}: weight_scale must have 1 or {} elements, got {}", op, weight.size(0), weight_scale.numel());
  require(!bias || (bias->dim() == 1 && bias->size(0) == weight.size(0)),
          "{}: bias must have shape [{}], got {} elements", op, weight.size(0), bias ? bias->numel() : 0);
}

Tensor conv2d_forward(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                      const Tensor& input_scale, const std::optional<Tensor>& input_residual,
                      const Tensor& weight_scale, IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation,
                      int64_t groups) {
  check_layer("conv2d", x, weight, bias, input_scale, weight_scale);
  require(x.dim() == 4 && weight.dim() == 4, "conv2d: x and weight must have 4 dimensions, got {} and {}", x.dim(),
          weight.dim());
  require(stride.size() == 2 && padding.size() == 4 && dilation.size() == 2,
          "conv2d: stride and dilation have 2 entries and padding 4 (top, left, bottom, right), got {}, {} and {}",
          stride.size(), dilation.size(), padding.size());
  require(sizes_unknown(x, weight) || (groups > 0 && x.size(1) == weight.size(1) * groups),
          "conv2d: x has {} channels, the weight takes {} in {} groups", sizes_unknown(x, weight) ? 0 : x.size(1),
          sizes_unknown(x, weight) ? 0 : weight.size(1) * groups, groups);
  const Tensor scale_x = input_scale.to(x.dtype()).reshape({});
  const Tensor scale_w = per_channel(weight_scale.to(x.dtype()), 4);
  Tensor sums = at::convolution(padded(input_codes(x, input_residual, scale_x), padding), codes_of(weight, scale_w), {},
                                stride, convolution_padding(padding), dilation, false, {0, 0}, groups);
  return scaled(std::move(sums), (scale_x * scale_w).view({-1, 1, 1}), bias);
}

Tensor linear_forward(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                      const Tensor& input_scale, const std::optional<Tensor>& input_residual,
                      const Tensor& weight_scale) {
  check_layer("linear", x, weight, bias, input_scale, weight_scale);
  require(weight.dim() == 2 && x.dim() >= 1, "linear: x must have a dimension and weight 2, got {} and {}", x.dim(),
          weight.dim());
  if (!sizes_unknown(x, weight)) {
    require(x.size(-1) == weight.size(1), "linear: x must end in {} features, got {}", weight.size(1), x.size(-1));
  }
  const Tensor scale_x = input_scale.to(x.dtype()).reshape({});
  const Tensor scale_w = per_channel(weight_scale.to(x.dtype()), 2);
  Tensor sums = at::matmul(input_codes(x, input_residual, scale_x), codes_of(weight, scale_w).t());
  return scaled(std::move(sums), (scale_x * scale_w).view({-1}), bias);
}

Tensor call_conv2d(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& input_scale,
                   const std::optional<Tensor>& input_residual, const Tensor& weight_scale, IntArrayRef stride,
                   IntArrayRef padding, IntArrayRef dilation, int64_t groups) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("qstep::conv2d", "").typed<decltype(call_conv2d)>();
  return op.call(x, weight, bias, input_scale, input_residual, weight_scale, stride, padding, dilation, groups);
}

Tensor call_linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& input_scale,
                   const std::optional<Tensor>& input_residual, const Tensor& weight_scale) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("qstep::linear", "").typed<decltype(call_linear)>();
  return op.call(x, weight, bias, input_scale, input_residual, weight_scale);
}

Tensor call_round_bias(const Tensor& bias, const Tensor& unit, const std::optional<Tensor>& offset) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("qstep::round_bias", "").typed<decltype(call_round_bias)>();
  return op.call(bias, unit, offset);
}

struct Conv2dFunction : torch::autograd::Function<Conv2dFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                        const Tensor& input_scale, const std::optional<Tensor>& input_residual,
                        const Tensor& weight_scale, IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation,
                        int64_t groups) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({x, weight, input_residual.value_or(Tensor())});
    ctx->saved_data["stride"] = stride;
    ctx->saved_data["padding"] = padding;
    ctx->saved_data["dilation"] = dilation;
    ctx->saved_data["groups"] = groups;
    return call_conv2d(x, weight, bias, input_scale, input_residual, weight_scale, stride, padding, dilation, groups);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const std::optional<Tensor> residual = saved[2].defined() ? std::optional(saved[2]) : std::nullopt;
    const std::vector<int64_t> padding = ctx->saved_data["padding"].toIntVector();
    const bool bias_grad = ctx->needs_input_grad(2);
    const Tensor x = padded(centered(saved[0], residual), padding);
    const c10::SymDimVector bias_size{saved[1].sym_size(0)};
    const at::OptionalSymIntArrayRef bias_sizes = bias_grad ? at::OptionalSymIntArrayRef(bias_size) : std::nullopt;
    const auto symbolic = [](const std::vector<int64_t>& v) { return c10::SymDimVector(v.begin(), v.end()); };
    auto [grad_x, grad_weight, grad_bias] = at::convolution_backward_symint(
        grads[0], x, saved[1], bias_sizes, symbolic(ctx->saved_data["stride"].toIntVector()),
        symbolic(convolution_padding(padding)), symbolic(ctx->saved_data["dilation"].toIntVector()), false,
        symbolic({0, 0}), ctx->saved_data["groups"].toInt(),
        {ctx->needs_input_grad(0), ctx->needs_input_grad(1), bias_grad});
    if (grad_x.defined() && !symmetric(padding)) {
      grad_x =
          grad_x.narrow_symint(2, padding[0], saved[0].sym_size(2)).narrow_symint(3, padding[1], saved[0].sym_size(3));
    }
    return {grad_x, grad_weight, grad_bias, {}, {}, {}, {}, {}, {}, {}};
  }
};

struct LinearFunction : torch::autograd::Function<LinearFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                        const Tensor& input_scale, const std::optional<Tensor>& input_residual,
                        const Tensor& weight_scale) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({x, weight, input_residual.value_or(Tensor())});
    return call_linear(x, weight, bias, input_scale, input_residual, weight_scale);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const std::optional<Tensor> residual = saved[2].defined() ? std::optional(saved[2]) : std::nullopt;
    const Tensor rows = rows_of(grads[0]);
    Tensor grad_x;
    Tensor grad_weight;
    Tensor grad_bias;
    if (ctx->needs_input_grad(0)) grad_x = at::matmul(grads[0], saved[1]);
    if (ctx->needs_input_grad(1)) grad_weight = rows.t().matmul(rows_of(centered(saved[0], residual)));
    if (ctx->needs_input_grad(2)) grad_bias = rows.sum(0);
    return {grad_x, grad_weight, grad_bias, {}, {}, {}};
  }
};

struct RoundBiasFunction : torch::autograd::Function<RoundBiasFunction> {
  static Tensor forward(AutogradContext*, const Tensor& bias, const Tensor& unit, const std::optional<Tensor>& offset) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_round_bias(bias, unit, offset);
  }
  static variable_list backward(AutogradContext*, const variable_list& grads) { return {grads[0], {}, {}}; }
};

Tensor conv2d_autograd(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                       const Tensor& input_scale, const std::optional<Tensor>& input_residual,
                       const Tensor& weight_scale, IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation,
                       int64_t groups) {
  return Conv2dFunction::apply(x, weight, bias, input_scale, input_residual, weight_scale, stride, padding, dilation,
                               groups);
}

Tensor linear_autograd(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                       const Tensor& input_scale, const std::optional<Tensor>& input_residual,
                       const Tensor& weight_scale) {
  return LinearFunction::apply(x, weight, bias, input_scale, input_residual, weight_scale);
}

Tensor round_bias_autograd(const Tensor& bias, const Tensor& unit, const std::optional<Tensor>& offset) {
  return RoundBiasFunction::apply(bias, unit, offset);
}

Tensor round_bias_forward(const Tensor& bias, const Tensor& unit, const std::optional<Tensor>& offset) {
  const Tensor step = unit.to(at::kDouble);
  const Tensor shift = offset ? offset->to(at::kDouble) : at::zeros({}, step.options());
  const Tensor real = bias.to(at::kDouble) - shift;
  // Beyond largest_bias the builder counts in coarser units, which hold the bias as it is.
  const Tensor countable = real.abs() < step.abs() * core::largest_bias;
  return at::where(countable, step * (real / step).round_(), real) + shift;
}

}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& input_scale,
              const std::optional<Tensor>& input_residual, const Tensor& weight_scale, const ConvGeometry& geometry) {
  return call_conv2d(x, weight, bias, input_scale, input_residual, weight_scale, geometry.stride, geometry.padding,
                     geometry.dilation, geometry.groups);
}

Tensor linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& input_scale,
              const std::optional<Tensor>& input_residual, const Tensor& weight_scale) {
  return call_linear(x, weight, bias, input_scale, input_residual, weight_scale);
}

Tensor round_bias(const Tensor& bias, const Tensor& unit, const std::optional<Tensor>& offset) {
  return call_round_bias(bias, unit, offset);
}

bool sums_fit_float32(const Tensor& weight, const Tensor& weight_scale, int64_t largest_input, const Tensor& bias,
                      const Tensor& unit) {
  const Tensor magnitudes =
      codes_of(weight, per_channel(weight_scale, weight.dim())).abs_().flatten(1).sum(1, false, at::kDouble);
  return (magnitudes * largest_input + (bias / unit).abs()).lt(0x1p24).all().item<bool>();
}

std::tuple<Tensor, Tensor> mean_and_variance(const Tensor& y) {
  std::vector<int64_t> dimensions{0};
  for (int64_t d = 2; d < y.dim(); ++d) dimensions.push_back(d);
  const Tensor mean = y.mean(dimensions, /*keepdim=*/true);
  return {mean.flatten(), (y - mean).square().mean(dimensions)};
}

std::tuple<Tensor, Tensor> batch_norm_affine(const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
                                             const Tensor& mean, const Tensor& var, double eps,
                                             const std::optional<Tensor>& layer_bias) {
  Tensor factor = (var.to(at::kDouble) + eps).rsqrt();
  if (weight) factor = factor * weight->to(at::kDouble);
  Tensor shift = layer_bias ? layer_bias->to(at::kDouble) - mean.to(at::kDouble) : -mean.to(at::kDouble);
  shift = shift * factor;
  if (bias) shift = shift + bias->to(at::kDouble);
  return {factor, shift};
}

TORCH_LIBRARY_FRAGMENT(qstep, m) {
  m.def(
      "conv2d(Tensor x, Tensor weight, Tensor? bias, Tensor input_scale, Tensor? input_residual, Tensor weight_scale, "
      "int[] stride, int[] padding, int[] dilation, int groups) -> Tensor");
  m.def(
      "linear(Tensor x, Tensor weight, Tensor? bias, Tensor input_scale, Tensor? input_residual, Tensor weight_scale) "
      "-> Tensor");
  m.def("round_bias(Tensor bias, Tensor unit, Tensor? offset=None) -> Tensor");
  m.def("mean_and_variance(Tensor y) -> (Tensor, Tensor)", TORCH_FN(mean_and_variance));
  m.def(
      "batch_norm_affine(Tensor? weight, Tensor? bias, Tensor mean, Tensor var, float eps, Tensor? layer_bias=None) -> "
      "(Tensor, Tensor)",
      TORCH_FN(batch_norm_affine));
  m.def("sums_fit_float32(Tensor weight, Tensor weight_scale, int largest_input, Tensor bias, Tensor unit) -> bool",
        TORCH_FN(sums_fit_float32));
}

// Built of ATen operations, so one kernel serves CPU, CUDA and Meta.
TORCH_LIBRARY_IMPL(qstep, CompositeExplicitAutograd, m) {
  m.impl("conv2d", TORCH_FN(conv2d_forward));
  m.impl("linear", TORCH_FN(linear_forward));
  m.impl("round_bias", TORCH_FN(round_bias_forward));
}

TORCH_LIBRARY_IMPL(qstep, Autograd, m) {
  m.impl("conv2d", TORCH_FN(conv2d_autograd));
  m.impl("linear", TORCH_FN(linear_autograd));
  m.impl("round_bias", TORCH_FN(round_bias_autograd));
}

}  // namespace qstep::nn
