#include "qstep/methods/lsq_plus/quantizer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "qstep/core/error.h"
#include "qstep/methods/functional.h"

namespace qstep::methods {
namespace {

LsqPlusActivationOptions resolved(LsqPlusActivationOptions options, bool nonnegative) {
  require(options.configuration >= 1 && options.configuration <= 4,
          "LsqPlusActivationQuantizer: configuration must be 1, 2, 3 or 4, got {}", options.configuration);
  if (options.configuration == 1 && !nonnegative) options.configuration = 2;
  return options;
}

CodeRange codes_of(const LsqPlusActivationOptions& options, int64_t bit_width) {
  const bool is_signed = options.configuration == 2 || options.configuration == 3;
  return (is_signed ? signed_codes : unsigned_codes)("LsqPlusActivationQuantizer", bit_width);
}

}  // namespace

LsqPlusWeightQuantizer::LsqPlusWeightQuantizer(int64_t bit_width, at::IntArrayRef shape, LsqPlusWeightOptions options)
    : WeightQuantizer("LsqPlusWeightQuantizer", bit_width, signed_codes("LsqPlusWeightQuantizer", bit_width)),
      options_(std::move(options)) {
  require(!shape.empty() && shape[0] > 0, "LsqPlusWeightQuantizer: shape must be [out, ...] with out > 0");
  const int64_t channels = options_.per_channel ? shape[0] : 1;
  const auto elements = static_cast<double>(std::max<int64_t>(1, c10::multiply_integers(shape) / channels));
  grad_scale_ = options_.grad_scale.value_or(1 / std::sqrt(elements * static_cast<double>(quant_max())));
  scale_ = register_module(
      "scale", std::make_shared<LearnedScale>(options_.per_channel ? shape.slice(0, 1) : at::IntArrayRef{}));
  zero_point_ = at::zeros({}, at::kInt);
}

void LsqPlusWeightQuantizer::initialize(const Tensor& weight) {
  require_finite("weights", weight);
  const Tensor scale = functional::lsq_weight_scale(
      weight.detach(), {.quant_min = quant_min(),
                        .quant_max = quant_max(),
                        .axis = options_.per_channel ? std::optional<int64_t>(0) : std::nullopt,
                        .rule = options_.rule});
  scale_->set(scale);
  set_ready();
}

QuantizedWeight LsqPlusWeightQuantizer::forward(const Tensor& weight) {
  require_ready();
  const Tensor scale = scale_->value();
  return {functional::lsq_plus(weight, scale, std::nullopt,
                               {.quant_min = quant_min(),
                                .quant_max = quant_max(),
                                .axis = options_.per_channel ? std::optional<int64_t>(0) : std::nullopt,
                                .grad_scale = grad_scale_,
                                .boundary = options_.boundary}),
          scale, zero_point_};
}

LsqPlusActivationQuantizer::LsqPlusActivationQuantizer(int64_t bit_width, bool nonnegative,
                                                       LsqPlusActivationOptions options)
    : ActivationQuantizer("LsqPlusActivationQuantizer", bit_width, codes_of(resolved(options, nonnegative), bit_width)),
      options_(resolved(std::move(options), nonnegative)) {
  scale_ = register_module("scale", std::make_shared<LearnedScale>(at::IntArrayRef{}));
  offset_ = at::zeros({});
  if (learns_offset()) register_parameter("offset", offset_);
  zero_point_ = at::zeros({}, at::kInt);
}

std::optional<Tensor> LsqPlusActivationQuantizer::residual() const {
  if (!learns_offset()) return std::nullopt;
  const core::Grid grid = this->grid();
  return at::full({}, core::residual(grid), offset_.options().dtype(at::kDouble));
}

void LsqPlusActivationQuantizer::initialize(const Tensor& samples) {
  const auto [scale, offset] = functional::lsq_activation_init(
      samples,
      {.quant_min = quant_min(), .quant_max = quant_max(), .learn_offset = learns_offset(), .method = options_.init});
  scale_->set(scale);
  const at::NoGradGuard guard;
  if (learns_offset()) offset_.copy_(offset);
  set_ready();
}

Tensor LsqPlusActivationQuantizer::quantize(const Tensor& x) {
  const auto elements = static_cast<double>(std::max<int64_t>(1, x.numel()));
  const double grad_scale = options_.grad_scale.value_or(1 / std::sqrt(elements * static_cast<double>(quant_max())));
  return functional::lsq_plus(x, scale(), learns_offset() ? std::optional(offset_) : std::nullopt,
                              {.quant_min = quant_min(),
                               .quant_max = quant_max(),
                               .axis = std::nullopt,
                               .grad_scale = grad_scale,
                               .boundary = options_.boundary});
}

}  // namespace qstep::methods
