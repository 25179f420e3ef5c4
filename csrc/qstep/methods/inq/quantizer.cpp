#include "qstep/methods/inq/quantizer.h"

#include <ATen/ATen.h>
#include <torch/serialize/input-archive.h>

#include <cmath>
#include <utility>

#include "qstep/core/error.h"
#include "qstep/methods/inq/math.h"

namespace qstep::methods {
namespace {

/// Weights in units of the smallest.
CodeRange levels(int64_t bit_width) {
  require(bit_width >= inq::min_bit_width && bit_width <= inq::max_bit_width,
          "InqWeightQuantizer: bit_width must be in [{}, {}], got {}", inq::min_bit_width, inq::max_bit_width,
          bit_width);
  const int64_t largest = int64_t{1} << (inq::magnitudes(static_cast<int32_t>(bit_width)) - 1);
  return {-largest, largest};
}

}  // namespace

InqWeightQuantizer::InqWeightQuantizer(int64_t bit_width, at::IntArrayRef shape, InqWeightOptions options)
    : WeightQuantizer("InqWeightQuantizer", bit_width, levels(bit_width)), options_(std::move(options)) {
  frozen_ = register_buffer("frozen", at::zeros(shape, at::kBool));
  n1_ = register_buffer("n1", at::zeros({}, at::kInt));
}

void InqWeightQuantizer::choose_exponents(const Tensor& weight) {
  n1_.fill_(functional::inq_range(weight, bit_width(), options_.n1_rule).n1);
}

void InqWeightQuantizer::read_buffers() {
  all_frozen_ = frozen_.all().item<bool>();
  host_n1_ = n1_.item<int64_t>();
}

void InqWeightQuantizer::load(torch::serialize::InputArchive& archive) {
  WeightQuantizer::load(archive);
  read_buffers();
}

int64_t InqWeightQuantizer::n2() const {
  return inq::smallest_exponent(static_cast<int32_t>(host_n1_), static_cast<int32_t>(bit_width()));
}

void InqWeightQuantizer::initialize(const Tensor& weight) {
  if (!frozen_.any().item<bool>()) choose_exponents(weight);  // else they are on the set
  read_buffers();
  set_ready();
}

QuantizedWeight InqWeightQuantizer::forward(const Tensor& weight) {
  require_ready();
  const Tensor scale = at::full({}, std::ldexp(1.0, static_cast<int>(n2())), weight.options().dtype(at::kFloat));
  const Tensor zero_point = at::zeros({}, weight.options().dtype(at::kInt));
  if (!is_training())
    return {functional::inq_quantize(weight, {.bit_width = bit_width(), .n1 = n1_}), scale, zero_point};
  return {at::where(frozen_, weight.detach(), weight), scale, zero_point, all_frozen_};
}

LoweredWeight InqWeightQuantizer::lowered(const QuantizedWeight& weight) const {
  const Tensor values =
      on_host(functional::inq_quantize(weight.values, {.bit_width = bit_width(), .n1 = n1_}), at::kFloat);
  return {{values},
          ir::PowerOfTwoWeight{.shape = values.sizes().vec(),
                               .values = span_of<float>(values),
                               .bit_width = static_cast<int32_t>(bit_width()),
                               .max_exponent = static_cast<int32_t>(host_n1_),
                               .variable_length = options_.variable_length}};
}

void InqWeightQuantizer::freeze(const Tensor& weight, double fraction, const functional::InqPartitionOptions& options) {
  require_ready();
  const at::NoGradGuard no_grad;
  const Tensor frozen =
      functional::inq_partition(weight, frozen_, fraction, options);  // throws before anything changes
  if (options_.recompute_n1) choose_exponents(weight);
  const Tensor quantized = functional::inq_quantize(weight, {.bit_width = bit_width(), .n1 = n1_});
  weight.copy_(at::where(frozen, quantized, weight));
  frozen_.copy_(frozen);
  read_buffers();
}

}  // namespace qstep::methods
