#include "qstep/nn/layers.h"

#include <ATen/ATen.h>
#include <torch/nn/init.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "qstep/core/error.h"

namespace qstep::nn {
namespace {

// In-place updates raise a tensor's version; writes through .data() do not, but change its sum of bits.
std::array<int64_t, 3> state_of(const Tensor& t) {
  const Tensor bytes = t.detach().reshape(-1).view(at::kByte);
  return {reinterpret_cast<int64_t>(t.data_ptr()), t._version(), bytes.sum(at::kLong).item<int64_t>()};
}

QuantizerPtr make_output(const QConfig& config, bool nonnegative) {
  return config.make_activation(config.act_bits, nonnegative);
}

// A limit of real values in units of eta: one division in float32, in training and lowering alike.
Tensor limit(double bound, const Tensor& eta) { return at::scalar_tensor(bound, eta.options()) / eta; }

}  // namespace

// --- Layer -------------------------------------------------------------------------------------------------------------

Layer::Layer(std::string name, std::vector<QuantizerPtr> inputs, QuantizerPtr output, double clamp_low,
             double clamp_high, core::RequantPolicy policy)
    : Module(std::move(name)),
      inputs_(std::move(inputs)),
      output_(std::move(output)),
      clamp_low_(clamp_low),
      clamp_high_(clamp_high),
      policy_(policy) {
  for (const QuantizerPtr& input : inputs_) {
    require(input != nullptr, "{}: its input has no quantizer: a last layer gives real values that no layer can take",
            this->name());
  }
  if (output_) register_module("output_quantizer", output_);
}

bool Layer::all_have_grids() const {
  const auto has_grid = [](const QuantizerPtr& quantizer) { return quantizer->has_grid(); };
  return std::all_of(inputs_.begin(), inputs_.end(), has_grid) && (!output_ || output_->has_grid());
}

std::optional<ir::Target> Layer::target() const {
  if (!output_) return std::nullopt;
  ir::Target result{output_->grid(), clamp_low_, clamp_high_};
  if (const std::optional<Tensor> eta = output_->eta()) {
    for (double* bound : {&result.clamp_low, &result.clamp_high}) {
      if (*bound != 0 && std::isfinite(*bound)) *bound = limit(*bound, *eta).item<double>();
    }
  }
  return result;
}

Tensor Layer::clamped(const Tensor& y) const {
  const std::optional<Tensor> eta = output_ && !calibrating_ ? output_->eta() : std::nullopt;
  Tensor result = y;
  if (eta) {  // the tensor holds real values / eta, and so do the limits
    if (std::isfinite(clamp_low_))
      result = clamp_low_ == 0 ? result.relu() : at::maximum(result, limit(clamp_low_, *eta));
    return std::isfinite(clamp_high_) ? at::minimum(result, limit(clamp_high_, *eta)) : result;
  }
  if (std::isfinite(clamp_high_)) return y.clamp(clamp_low_, clamp_high_);
  return clamp_low_ == 0 ? y.relu() : y;
}

Tensor Layer::forward(const std::vector<Tensor>& inputs) {
  if (!calibrating_ && !is_training() && !at::GradMode::is_enabled() && all_have_grids()) {
    const Tensor codes = integer_codes(inputs).to(inputs[0].device());
    if (recording_) recorded_ = codes;
    if (output_) return output_->decode(codes);
    const std::vector<double>& scales =
        lowered_->network.structure().values.at(lowered_->network.structure().outputs.at(0)).scales;
    const Tensor unit = at::tensor(scales, at::kDouble).to(codes.device());
    return (codes.to(at::kDouble) * (codes.dim() == 4 ? unit.reshape({-1, 1, 1}) : unit)).to(at::kFloat);
  }
  if (output_ && is_training()) output_->advance();
  const Tensor y = clamped(calibrating_ ? in_float(inputs) : simulate(inputs));
  return (output_ ? output_->forward(y) : y).to(inputs[0].dtype());  // float64 where float32 could not hold the sums
}

Tensor Layer::integer_codes(const std::vector<Tensor>& inputs) {
  if (inputs_.empty()) {
    require(!at::isnan(inputs[0]).any().item<bool>(), "{}: the input of the network must not contain NaN", name());
    return output_->encode(inputs[0]);
  }
  require(inputs.size() == inputs_.size(), "{}: takes {} inputs, got {}", name(), inputs_.size(), inputs.size());
  std::vector<Tensor> codes;
  std::vector<engine::Input> arguments;
  for (size_t i = 0; i < inputs.size(); ++i) {
    codes.push_back(inputs_[i]->encode(inputs[i]).to(at::kCPU).contiguous());
    arguments.push_back({codes[i].sizes().vec(), codes[i].const_data_ptr<uint8_t>()});
  }
  const engine::Tensor result = std::move(lowered(codes).run(arguments)[0]);
  return std::visit(
      [&]<class T>(const std::vector<T>& data) {
        const Tensor tensor = at::empty(result.shape, c10::CppTypeToScalarType<T>::value);
        std::copy(data.begin(), data.end(), tensor.template data_ptr<T>());
        return tensor;
      },
      result.data);
}

const engine::IntegerNetwork& Layer::lowered(const std::vector<Tensor>& codes) {
  std::vector<std::array<int64_t, 3>> state;
  const auto note = [&](const torch::nn::Module& module) {
    for (const Tensor& t : module.parameters()) state.push_back(state_of(t));
    for (const Tensor& t : module.buffers()) state.push_back(state_of(t));
  };
  note(*this);
  for (const QuantizerPtr& input : inputs_) {
    note(*input);
    for (const QuantizerPtr& other : input->depends_on()) note(*other);
  }
  if (output_) {
    for (const QuantizerPtr& other : output_->depends_on()) note(*other);
  }
  if (!lowered_ || lowered_->state != state) {
    ir::Builder builder(policy_);
    std::vector<ir::ValueId> values;
    for (size_t i = 0; i < codes.size(); ++i) {
      values.push_back(builder.input("input" + std::to_string(i), codes[i].sizes().vec(), inputs_[i]->grid()));
    }
    builder.output(lower(builder, name(), values));
    lowered_.emplace(Lowered{std::move(state), engine::IntegerNetwork(builder.finish())});
  }
  return lowered_->network;
}

// --- Quantize ----------------------------------------------------------------------------------------------------------

QuantizeImpl::QuantizeImpl(const QConfig& config)
    : Layer("Quantize", {}, make_output(config, config.nonnegative_input), -INFINITY, INFINITY, config.requantization) {
  output()->hold_real_values(/*entering=*/true);
}

ir::ValueId QuantizeImpl::lower(ir::Builder& builder, const std::string& name, const std::vector<ir::ValueId>& inputs) {
  return builder.quantize(name, inputs.at(0), output()->grid());
}

// --- AffineLayer -------------------------------------------------------------------------------------------------------

AffineLayer::AffineLayer(std::string name, std::vector<int64_t> weight_shape, const AffineOptions& options,
                         const QConfig& config, QuantizerPtr input)
    : Layer(std::move(name), {std::move(input)}, options.last ? nullptr : make_output(config, options.relu),
            options.relu ? 0 : -INFINITY, options.relu ? options.clamp_high : INFINITY, config.requantization),
      options_(options),
      fold_(config.fold_batch_statistics || (options.batch_norm && config.fold_batch_norm)),
      fold_batch_(config.fold_batch_statistics) {
  for (const int64_t size : weight_shape)
    require(size > 0, "{}: every size of the weight must be positive, got {}", this->name(), size);
  weight = register_parameter("weight", at::empty(weight_shape));
  torch::nn::init::kaiming_uniform_(weight, std::sqrt(5.0));
  if (options.bias) {
    const double bound = 1 / std::sqrt(static_cast<double>(weight.numel() / weight_shape[0]));
    bias = register_parameter("bias", at::empty({weight_shape[0]}).uniform_(-bound, bound));
  }
  if (options.batch_norm) {
    norm_weight = register_parameter("norm_weight", at::ones({weight_shape[0]}));
    norm_bias = register_parameter("norm_bias", at::zeros({weight_shape[0]}));
    running_mean = register_buffer("running_mean", at::zeros({weight_shape[0]}));
    running_var = register_buffer("running_var", at::ones({weight_shape[0]}));
  }
  weight_quantizer_ = register_module("weight_quantizer", config.make_weight(config.weight_bits, weight_shape));
  require(!fold_ || weight_quantizer_->foldable(), "{}: fold_batch_norm does not go with {}", this->name(),
          weight_quantizer_->name());
}

AffineLayer::ChannelTerms AffineLayer::frozen_affine() const {
  const auto layer_bias = bias.defined() ? std::optional(bias) : std::nullopt;
  if (!options_.batch_norm) {
    return between_etas({std::nullopt, layer_bias ? std::optional(layer_bias->to(at::kDouble)) : std::nullopt});
  }
  const auto [factor, shift] =
      batch_norm_affine(norm_weight, norm_bias, running_mean, running_var, options_.eps, layer_bias);
  return between_etas({factor, shift});
}

AffineLayer::ChannelTerms AffineLayer::batch_affine(const Tensor& x) {
  const auto layer_bias = bias.defined() ? std::optional(bias) : std::nullopt;
  const std::optional<Tensor> eta = input().eta();
  const Tensor y = real(x, eta ? weight * *eta : weight, layer_bias);
  const auto [mean, var] = mean_and_variance(y);
  {
    const at::NoGradGuard guard;
    const auto count = static_cast<double>(y.numel() / std::max<int64_t>(1, y.size(1)));
    running_mean.lerp_(mean, options_.momentum);
    running_var.lerp_(var * (count / std::max(1.0, count - 1)), options_.momentum);
  }
  const auto [factor, shift] = batch_norm_affine(norm_weight, norm_bias, mean, var, options_.eps, layer_bias);
  return between_etas({factor, shift});
}

AffineLayer::ChannelTerms AffineLayer::between_etas(ChannelTerms real) const {
  const std::optional<Tensor> source = input().eta();
  if (!source) return real;
  Tensor ratio = source->to(at::kDouble);
  if (output()) {
    const std::optional<Tensor> eta = output()->eta();
    require(eta.has_value(), "{}: F8Net goes with F8Net in every layer, its output is quantized by {}", name(),
            output()->name());
    const Tensor target = eta->to(at::kDouble);
    ratio = ratio / target;
    if (real.shift) real.shift = *real.shift / target;
  }
  return {real.factor ? *real.factor * ratio : ratio, real.shift};
}

bool AffineLayer::needs_double(const QuantizedWeight& w, const Tensor& bias, const Tensor& unit) const {
  if (policy() != core::RequantPolicy::shift || uses_batch_statistics() || !has_codes(w)) return false;
  const int64_t largest = std::max(-input().quant_min(), input().quant_max());
  return !sums_fit_float32(w.values.detach(), w.scale.detach(), largest, bias.detach(), unit);
}

Tensor AffineLayer::folded(const std::optional<Tensor>& factor) const {
  if (!fold_ || !factor) return weight;
  std::vector<int64_t> shape(static_cast<size_t>(weight.dim()), 1);
  shape[0] = -1;
  return weight * factor->to(weight.dtype()).reshape(shape);
}

QuantizedWeight AffineLayer::quantized_weight(const std::optional<Tensor>& factor) {
  return weight_quantizer_->forward(folded(factor));
}

void AffineLayer::initialize_weights() {
  const at::NoGradGuard guard;
  weight_quantizer_->initialize(folded(frozen_affine().factor));
}

std::optional<Tensor> AffineLayer::residual_of(const QuantizedWeight& w) const {
  const std::optional<Tensor> residual = input().residual();
  if (!residual) return std::nullopt;
  return residual->to(at::kDouble) * w.values.to(at::kDouble).flatten(1).sum(1);
}

bool AffineLayer::has_codes(const QuantizedWeight& w) const { return w.on_grid && input().active(); }

Tensor AffineLayer::centered(const Tensor& x) const {
  const std::optional<Tensor> residual = input().active() ? input().residual() : std::nullopt;
  return residual ? x - residual->to(x.dtype()) : x;
}

Tensor AffineLayer::in_float(const std::vector<Tensor>& inputs) {
  const Tensor y = real(inputs[0], weight, bias.defined() ? std::optional(bias) : std::nullopt);
  if (!options_.batch_norm) return y;
  return at::batch_norm(y, norm_weight, norm_bias, running_mean, running_var, false, options_.momentum, options_.eps,
                        false);
}

Tensor AffineLayer::simulate(const std::vector<Tensor>& inputs) {
  if (uses_batch_statistics() && !fold_batch_) return simulate_batch(inputs[0]);
  Tensor x = inputs[0];
  const ChannelTerms affine = uses_batch_statistics() ? batch_affine(x) : frozen_affine();
  QuantizedWeight w = quantized_weight(affine.factor);
  const std::optional<Tensor> absorbed = fold_ ? std::nullopt : affine.factor;
  Tensor shift = affine.shift ? *affine.shift : at::zeros({weight.size(0)}, weight.options().dtype(at::kDouble));
  if (const std::optional<Tensor> residual = residual_of(w))
    shift = shift + (absorbed ? *residual * *absorbed : *residual);
  if (w.on_grid && input().active() && (!output() || output()->active())) {
    Tensor unit = input().scale().detach().to(at::kDouble) * w.scale.detach().to(at::kDouble);
    if (absorbed) unit = unit * absorbed->detach();
    shift = round_bias(shift, unit, output() ? std::optional(output()->offset().detach()) : std::nullopt);
    if (needs_double(w, shift, unit)) {
      x = x.to(at::kDouble);
      w.values = w.values.to(at::kDouble);
    }
  }
  shift = shift.to(x.dtype());
  if (!absorbed) return on_codes(x, w, shift);
  return at::addcmul(per_channel(shift), on_codes(x, w, std::nullopt), per_channel(absorbed->to(x.dtype())));
}

Tensor AffineLayer::simulate_batch(const Tensor& x) {
  std::optional<Tensor> factor;
  if (fold_) {
    factor = frozen_affine().factor;
    // Divided out again below: a channel that batch norm has switched off must not divide by 0.
    factor = at::where(factor->abs() < 1e-6, at::full_like(*factor, 1e-6), *factor);
  }
  const QuantizedWeight w = quantized_weight(factor);
  std::optional<Tensor> shift = residual_of(w);
  if (shift) shift = shift->to(weight.dtype());
  Tensor y = on_codes(x, w, shift);
  if (factor) y = y / per_channel(factor->to(y.dtype()));
  if (bias.defined()) y = y + per_channel(bias);
  return at::batch_norm(y, norm_weight, norm_bias, running_mean, running_var, true, options_.momentum, options_.eps,
                        false);
}

template <class Append>
ir::ValueId AffineLayer::lower_affine(const Append& append) {
  const at::NoGradGuard guard;
  const ChannelTerms affine = frozen_affine();
  const QuantizedWeight w = quantized_weight(affine.factor);
  const methods::LoweredWeight lowered = weight_quantizer_->lowered(w);
  const Tensor factor = affine.factor && !fold_ ? methods::on_host(*affine.factor, at::kDouble) : Tensor();
  const Tensor shift = affine.shift ? methods::on_host(*affine.shift, at::kDouble) : Tensor();
  ir::ChannelAffine channels;
  if (factor.defined()) channels.factor = methods::span_of<double>(factor);
  if (shift.defined()) channels.bias = methods::span_of<double>(shift);
  return append(lowered.description, channels);
}

// --- Conv2d, Linear ----------------------------------------------------------------------------------------------------

Conv2dImpl::Conv2dImpl(const Conv2dOptions& options, const QConfig& config, QuantizerPtr input)
    : AffineLayer("Conv2d",
                  {options.out_channels_, options.in_channels_ / std::max<int64_t>(1, options.geometry_.groups),
                   options.kernel_[0], options.kernel_[1]},
                  options.affine_, config, std::move(input)),
      options_(options) {
  const int64_t groups = options.geometry_.groups;
  require(groups > 0 && options.in_channels_ % groups == 0 && options.out_channels_ % groups == 0,
          "Conv2d: groups must divide in_channels {} and out_channels {}, got {}", options.in_channels_,
          options.out_channels_, groups);
}

Tensor Conv2dImpl::real(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b) {
  const ConvGeometry& g = options_.geometry_;
  return at::conv2d(x, w, b, g.stride, at::IntArrayRef{g.padding[0], g.padding[1]}, g.dilation, g.groups);
}

Tensor Conv2dImpl::on_codes(const Tensor& x, const QuantizedWeight& w, const std::optional<Tensor>& b) {
  if (!has_codes(w)) return real(centered(x), w.values, b);
  return conv2d(x, w.values, b, input().scale().detach(), input().residual(), w.scale.detach(), options_.geometry_);
}

ir::ValueId Conv2dImpl::lower(ir::Builder& builder, const std::string& name, const std::vector<ir::ValueId>& inputs) {
  const ConvGeometry& g = options_.geometry_;
  core::Window window;
  for (size_t i = 0; i < 2; ++i) {
    window.kernel[i] = static_cast<int32_t>(options_.kernel_[i]);
    window.stride[i] = static_cast<int32_t>(g.stride[i]);
    window.dilation[i] = static_cast<int32_t>(g.dilation[i]);
  }
  for (size_t i = 0; i < 4; ++i) window.padding[i] = static_cast<int32_t>(g.padding[i]);
  return lower_affine([&](const ir::RealWeight& weight, const ir::ChannelAffine& channels) {
    return builder.conv2d(name, inputs.at(0), window, static_cast<int32_t>(g.groups), weight, channels, target());
  });
}

LinearImpl::LinearImpl(const LinearOptions& options, const QConfig& config, QuantizerPtr input)
    : AffineLayer("Linear", {options.out_features_, options.in_features_}, options.affine_, config, std::move(input)) {}

Tensor LinearImpl::real(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b) {
  return at::linear(x, w, b);
}

Tensor LinearImpl::on_codes(const Tensor& x, const QuantizedWeight& w, const std::optional<Tensor>& b) {
  if (!has_codes(w)) return real(centered(x), w.values, b);
  return linear(x, w.values, b, input().scale().detach(), input().residual(), w.scale.detach());
}

ir::ValueId LinearImpl::lower(ir::Builder& builder, const std::string& name, const std::vector<ir::ValueId>& inputs) {
  return lower_affine([&](const ir::RealWeight& weight, const ir::ChannelAffine& channels) {
    return builder.linear(name, inputs.at(0), weight, channels, target());
  });
}

// --- layers without weights --------------------------------------------------------------------------------------------

AddImpl::AddImpl(const QConfig& config, QuantizerPtr left, QuantizerPtr right, bool relu)
    : Layer("Add", {std::move(left), std::move(right)}, make_output(config, relu), relu ? 0 : -INFINITY, INFINITY,
            config.requantization) {
  for (const QuantizerPtr& source : this->inputs()) output()->join(source);
}

Tensor AddImpl::simulate(const std::vector<Tensor>& inputs) {
  const auto in_output_units = [&](size_t i) {
    const std::optional<Tensor> ratio = input(i).ratio_to(*output());
    return ratio ? inputs[i] * *ratio : inputs[i];
  };
  return in_output_units(0) + in_output_units(1);
}

ir::ValueId AddImpl::lower(ir::Builder& builder, const std::string& name, const std::vector<ir::ValueId>& inputs) {
  const auto factor = [&](size_t i) {
    const std::optional<Tensor> ratio = input(i).ratio_to(*output());
    return ratio ? ratio->item<double>() : 1.0;
  };
  return builder.add(name, inputs.at(0), inputs.at(1), *target(), factor(0), factor(1));
}

ConcatImpl::ConcatImpl(const QConfig& config, std::vector<QuantizerPtr> inputs)
    : Layer("Concat", std::move(inputs), make_output(config, false), -INFINITY, INFINITY, config.requantization) {
  require(policy() != core::RequantPolicy::shift, "Concat: not defined in a network of shifts only (F8Net)");
}

Tensor ConcatImpl::simulate(const std::vector<Tensor>& inputs) { return at::cat(inputs, 1); }

ir::ValueId ConcatImpl::lower(ir::Builder& builder, const std::string& name, const std::vector<ir::ValueId>& inputs) {
  return builder.concat(name, inputs, 1, output()->grid());
}

ElementwiseImpl::ElementwiseImpl(const std::string& function, const QConfig& config, QuantizerPtr input)
    : Layer("Elementwise", {std::move(input)}, make_output(config, function != "tanh"), -INFINITY, INFINITY,
            config.requantization),
      function_(function) {
  ir::evaluate(function, {}, 0.0);  // throws for an unknown name
  require(policy() != core::RequantPolicy::shift, "Elementwise: {} is not defined in a network of shifts only (F8Net)",
          function);
}

Tensor ElementwiseImpl::simulate(const std::vector<Tensor>& inputs) {
  const Tensor& x = inputs[0];
  if (function_ == "silu") return at::silu(x);
  if (function_ == "sigmoid") return at::sigmoid(x);
  if (function_ == "hardswish") return at::hardswish(x);
  if (function_ == "hardsigmoid") return at::hardsigmoid(x);
  if (function_ == "tanh") return at::tanh(x);
  if (function_ == "gelu") return at::gelu(x);
  if (function_ == "relu") return at::relu(x);
  return x;  // identity
}

ir::ValueId ElementwiseImpl::lower(ir::Builder& builder, const std::string& name,
                                   const std::vector<ir::ValueId>& inputs) {
  return builder.lookup(name, inputs.at(0), function_, {}, output()->grid());
}

AvgPool2dImpl::AvgPool2dImpl(int64_t kernel, const QConfig& config, QuantizerPtr input, bool nonnegative)
    : Layer("AvgPool2d", {std::move(input)}, make_output(config, nonnegative), -INFINITY, INFINITY,
            config.requantization),
      kernel_(kernel),
      divisor_(kernel * kernel) {
  require(kernel > 0 && kernel <= ir::max_window, "AvgPool2d: kernel must be in [1, {}], got {}", ir::max_window,
          kernel);
  if (policy() != core::RequantPolicy::shift) return;
  divisor_ = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(divisor_)));
  output()->follow(inputs()[0], static_cast<double>(divisor_) / static_cast<double>(kernel * kernel));
}

Tensor AvgPool2dImpl::simulate(const std::vector<Tensor>& inputs) {
  return at::avg_pool2d(inputs[0], kernel_, kernel_, 0, false, true, divisor_);
}

Tensor AvgPool2dImpl::in_float(const std::vector<Tensor>& inputs) {
  return at::avg_pool2d(inputs[0], kernel_, kernel_);
}

ir::ValueId AvgPool2dImpl::lower(ir::Builder& builder, const std::string& name,
                                 const std::vector<ir::ValueId>& inputs) {
  const auto size = static_cast<int32_t>(kernel_);
  const core::Window window{.kernel = {size, size}, .stride = {size, size}};
  const bool whole = divisor_ == kernel_ * kernel_;
  return builder.avg_pool2d(name, inputs.at(0), window, false, true, *target(), 1.0,
                            whole ? 0 : static_cast<int32_t>(divisor_));
}

AdaptiveAvgPool2dImpl::AdaptiveAvgPool2dImpl(int64_t height, int64_t width, const QConfig& config, QuantizerPtr input,
                                             bool nonnegative)
    : Layer("AdaptiveAvgPool2d", {std::move(input)}, make_output(config, nonnegative), -INFINITY, INFINITY,
            config.requantization),
      size_{height, width} {
  require(height > 0 && width > 0, "AdaptiveAvgPool2d: height and width must be positive, got {} and {}", height,
          width);
  require(policy() != core::RequantPolicy::shift,
          "AdaptiveAvgPool2d: a network of shifts only (F8Net) needs windows of a known size: use AvgPool2d");
}

Tensor AdaptiveAvgPool2dImpl::simulate(const std::vector<Tensor>& inputs) {
  return at::adaptive_avg_pool2d(inputs[0], size_);
}

ir::ValueId AdaptiveAvgPool2dImpl::lower(ir::Builder& builder, const std::string& name,
                                         const std::vector<ir::ValueId>& inputs) {
  return builder.adaptive_avg_pool2d(name, inputs.at(0), static_cast<int32_t>(size_[0]), static_cast<int32_t>(size_[1]),
                                     *target());
}

}  // namespace qstep::nn
