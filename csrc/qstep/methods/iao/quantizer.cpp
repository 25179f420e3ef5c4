#include "qstep/methods/iao/quantizer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "qstep/core/error.h"
#include "qstep/methods/functional.h"

namespace qstep::methods {
namespace {

/// `x` with its dimensions in the order of memory: a reduction of it all copies nothing where x is dense.
Tensor in_memory_order(const Tensor& x) {
  std::vector<int64_t> order(static_cast<size_t>(x.dim()));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return x.stride(a) > x.stride(b); });
  return x.permute(order);
}

}  // namespace

IaoWeightQuantizer::IaoWeightQuantizer(int64_t bit_width, bool per_channel)
    : WeightQuantizer("IaoWeightQuantizer", bit_width, symmetric_codes("IaoWeightQuantizer", bit_width)),
      per_channel_(per_channel) {
  set_ready();
}

void IaoWeightQuantizer::initialize(const Tensor& weight) { require_finite("weights", weight); }

QuantizedWeight IaoWeightQuantizer::forward(const Tensor& weight) {
  const Tensor rows = per_channel_ ? weight.detach().flatten(1) : weight.detach().reshape({1, -1});
  const auto [low, high] = at::aminmax(rows, 1);
  const auto [scale, zero_point] = functional::affine_params(
      low, high, {.quant_min = quant_min(), .quant_max = quant_max(), .symmetric = per_channel_});
  return {functional::fake_quantize_affine(weight, scale, zero_point,
                                           {.quant_min = quant_min(),
                                            .quant_max = quant_max(),
                                            .axis = per_channel_ ? std::optional<int64_t>(0) : std::nullopt}),
          scale, zero_point};
}

IaoActivationQuantizer::IaoActivationQuantizer(int64_t bit_width, IaoActivationOptions options)
    : ActivationQuantizer("IaoActivationQuantizer", bit_width, unsigned_codes("IaoActivationQuantizer", bit_width)),
      options_(options) {
  require(options.smoothing >= 0 && options.smoothing < 1,
          "IaoActivationQuantizer: smoothing must be in [0, 1), got {}", options.smoothing);
  require(options.delay >= 0, "IaoActivationQuantizer: delay must not be negative, got {}", options.delay);
  min_ = register_buffer("min", at::zeros({}));
  max_ = register_buffer("max", at::zeros({}));
  step_ = register_buffer("step", at::zeros({}, at::kLong));
  frozen_ = register_buffer("frozen", at::zeros({}, at::kBool));
  offset_ = at::zeros({});
}

Tensor IaoActivationQuantizer::scale() const {
  return std::get<0>(functional::affine_params(min_, max_, {.quant_min = quant_min(), .quant_max = quant_max()}));
}

Tensor IaoActivationQuantizer::zero_point() const {
  return std::get<1>(functional::affine_params(min_, max_, {.quant_min = quant_min(), .quant_max = quant_max()}));
}

void IaoActivationQuantizer::freeze(bool frozen) { frozen_.fill_(frozen); }

void IaoActivationQuantizer::initialize(const Tensor& samples) {
  min_.copy_(samples.min());
  max_.copy_(samples.max());
  set_ready();
}

Tensor IaoActivationQuantizer::quantize(const Tensor& x) {
  const bool frozen = frozen_.item<bool>();
  active_ = !is_training() || frozen || step_.item<int64_t>() >= options_.delay;
  if (is_training() && !frozen && x.numel() > 0) {
    const at::NoGradGuard guard;
    const auto [low, high] = at::aminmax(in_memory_order(x));
    min_.lerp_(low.to(at::kFloat), 1 - options_.smoothing);
    max_.lerp_(high.to(at::kFloat), 1 - options_.smoothing);
    step_.add_(1);
  }
  if (!active_) return x;
  return functional::fake_quantize_affine(x, scale(), zero_point(),
                                          {.quant_min = quant_min(), .quant_max = quant_max()});
}

}  // namespace qstep::methods
