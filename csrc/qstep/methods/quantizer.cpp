#include "qstep/methods/quantizer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "qstep/core/error.h"
#include "qstep/methods/grid_ops.h"

namespace qstep::methods {
namespace {

constexpr int64_t calibration_samples = 65536;  // of each tensor, over all batches, in expectation

/// 2^digits - 1, where a code of bit_width has so many binary digits.
int64_t largest(std::string_view owner, int64_t bit_width, int64_t digits) {
  require(bit_width >= 2 && bit_width <= 8, "{}: bit_width must be in [2, 8], got {}", owner, bit_width);
  return (int64_t{1} << digits) - 1;
}

}  // namespace

CodeRange unsigned_codes(std::string_view owner, int64_t bit_width) {
  return {0, largest(owner, bit_width, bit_width)};
}

CodeRange signed_codes(std::string_view owner, int64_t bit_width) {
  const int64_t limit = largest(owner, bit_width, bit_width - 1);
  return {-limit - 1, limit};
}

CodeRange symmetric_codes(std::string_view owner, int64_t bit_width) {
  const int64_t limit = largest(owner, bit_width, bit_width - 1);
  return {-limit, limit};
}

Quantizer::Quantizer(std::string name, int64_t bit_width, CodeRange codes)
    : Module(std::move(name)), bit_width_(bit_width), codes_(codes) {
  initialized_ = register_buffer("initialized", at::zeros({}, at::kBool));
}

bool Quantizer::ready() const { return initialized_.item<bool>(); }

void Quantizer::require_ready() const {
  require(ready(), "{}: missing calibration: run qstep::calibrate or load an archive before the first forward pass",
          name());
}

void Quantizer::set_ready() { initialized_.fill_(true); }

void Quantizer::require_finite(std::string_view what, const Tensor& values) const {
  require(at::isfinite(values).all().item<bool>(), "{}: {} must be finite, got NaN or infinity", name(), what);
}

Tensor on_host(const Tensor& t, at::ScalarType dtype) { return t.detach().to(at::kCPU, dtype).contiguous(); }

LoweredWeight WeightQuantizer::lowered(const QuantizedWeight& weight) const {
  const Tensor values = on_host(weight.values, at::kFloat);
  const Tensor scale = on_host(weight.scale, at::kFloat);
  return {{values, scale},
          ir::UniformWeight{.shape = values.sizes().vec(),
                            .values = span_of<float>(values),
                            .scale = span_of<float>(scale),
                            .zero_point = weight.zero_point.reshape(-1)[0].to(at::kInt).item<int32_t>(),
                            .quant_min = static_cast<int32_t>(quant_min()),
                            .quant_max = static_cast<int32_t>(quant_max())}};
}

void ActivationQuantizer::start_calibration() {
  calibrating_ = true;
  samples_.clear();
}

void ActivationQuantizer::finish_calibration() {
  calibrating_ = false;
  require(!samples_.empty(), "{}: missing calibration: no batch reached this quantizer", name());
  initialize(at::cat(samples_));
  samples_.clear();
}

Tensor ActivationQuantizer::sample(const Tensor& x) const {
  const Tensor flat = x.reshape(-1).to(at::kCPU, at::kFloat);
  const int64_t stride = std::max<int64_t>(1, flat.numel() * 8 / calibration_samples);
  return at::cat({flat.slice(0, 0, flat.numel(), stride), flat.min().reshape(1), flat.max().reshape(1)});
}

Tensor ActivationQuantizer::forward(const Tensor& x) {
  if (calibrating_) {
    const Tensor values = x.detach();
    require_finite("calibration data", values);
    if (values.numel() > 0) samples_.push_back(sample(values));
    return x;
  }
  require_ready();
  return quantize(x);
}

core::Grid ActivationQuantizer::grid() const {
  require(has_grid(),
          "{}: activations in floating point have no grid: they are for training and comparison, not for an integer "
          "network",
          name());
  require_ready();
  return {scale().item<float>(), zero_point().item<int32_t>(), offset().item<float>(),
          static_cast<int32_t>(quant_min()), static_cast<int32_t>(quant_max())};
}

Tensor ActivationQuantizer::encode(const Tensor& x) const {
  const at::NoGradGuard guard;
  return methods::encode(x.to(at::kFloat), scale(), zero_point(), offset(), quant_min(), quant_max());
}

Tensor ActivationQuantizer::decode(const Tensor& codes) const {
  const at::NoGradGuard guard;
  return methods::decode(codes, scale(), zero_point(), offset(), quant_min());
}

FloatActivation::FloatActivation() : ActivationQuantizer("FloatActivation", 8, unsigned_codes("FloatActivation", 8)) {
  one_ = register_buffer("one", at::ones({}));
  zero_ = register_buffer("zero", at::zeros({}));
  set_ready();
}

LearnedScale::LearnedScale(at::IntArrayRef shape) : Module("LearnedScale") {
  raw_ = register_parameter("raw", at::ones(shape));
  eps_ = register_buffer("eps", at::full(shape, 1e-8));
}

void LearnedScale::set(const Tensor& scale) {
  const at::NoGradGuard guard;
  raw_.copy_(scale);
  eps_.copy_((scale * 0x1p-24).clamp_min(std::numeric_limits<float>::min()));
}

}  // namespace qstep::methods
