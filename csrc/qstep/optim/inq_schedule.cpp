#include "qstep/optim/inq_schedule.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "qstep/core/error.h"
#include "qstep/methods/inq/schedules.h"
#include "qstep/nn/layers.h"

namespace qstep::optim {
namespace {

/// Of the frozen weights' bits and places (FNV-1a): tells whether a model is the one whose state was saved.
int64_t fingerprint(const Tensor& weight, const Tensor& frozen) {
  const Tensor held = at::where(frozen, weight.detach().to(at::kFloat), NAN).cpu().contiguous();
  uint64_t hash = 0xcbf29ce484222325;
  for (const float value : methods::span_of<float>(held)) {
    hash = (hash ^ std::bit_cast<uint32_t>(value)) * 0x100000001b3;
  }
  return std::bit_cast<int64_t>(hash);
}

}  // namespace

InqSchedule::InqSchedule(torch::nn::Module& model, torch::optim::Optimizer& optimizer, std::vector<double> fractions,
                         InqScheduleOptions options)
    : optimizer_(optimizer), fractions_(std::move(fractions)), options_(std::move(options)), frozen_(optimizer) {
  methods::inq::check_fractions("InqSchedule", fractions_);
  require(options_.strategy == "magnitude" || options_.strategy == "random",
          "InqSchedule: strategy must be 'magnitude' or 'random', got '{}'", options_.strategy);
  if (!options_.generator) options_.generator = at::detail::createCPUGenerator(0);
  for (const auto& item : model.named_modules("", /*include_self=*/true)) {
    const auto* layer = dynamic_cast<const nn::AffineLayer*>(item.value().get());
    if (layer == nullptr) continue;
    if (auto quantizer = std::dynamic_pointer_cast<methods::InqWeightQuantizer>(layer->weight_quantizer())) {
      layers_.push_back({item.key(), layer->weight, std::move(quantizer)});
    }
  }
  require(!layers_.empty(), "InqSchedule: the model has no layer with INQ weights");
  bool trains_one = false;
  for (const auto& group : optimizer.param_groups()) {
    learning_rates_.push_back(group.options().get_lr());
    for (const Tensor& parameter : group.params()) {
      trains_one |= std::any_of(layers_.begin(), layers_.end(),
                                [&](const Layer& layer) { return layer.weight.is_same(parameter); });
    }
  }
  require(trains_one, "InqSchedule: the optimizer has none of the model's INQ weights");
}

void InqSchedule::step() {
  require(!finished(), "InqSchedule: all {} steps are done", fractions_.size());
  for (const Layer& layer : layers_) {  // before any of them changes
    require(at::isfinite(layer.weight).all().item<bool>(),
            "InqSchedule: {}: weights must be finite, got NaN or infinity", layer.name);
  }
  for (Layer& layer : layers_) {
    layer.quantizer->freeze(layer.weight, fractions_[position_],
                            {.strategy = options_.strategy, .generator = options_.generator});
    frozen_.hold(layer.weight, layer.quantizer->frozen());
  }
  frozen_.forget_curvature();
  ++position_;
  if (!options_.lr_reset) return;
  for (size_t i = 0; i < learning_rates_.size(); ++i) optimizer_.param_groups()[i].options().set_lr(learning_rates_[i]);
}

std::string InqSchedule::names() const {
  std::string all;
  for (const Layer& layer : layers_) all += layer.name + "\n";
  return all;
}

std::vector<int64_t> InqSchedule::description() const {
  std::vector<int64_t> numbers;
  for (const Layer& layer : layers_) {
    numbers.push_back(layer.quantizer->bit_width());
    numbers.insert(numbers.end(), layer.weight.sizes().begin(), layer.weight.sizes().end());
    numbers.push_back(layer.quantizer->frozen().sum().item<int64_t>());
    numbers.push_back(fingerprint(layer.weight, layer.quantizer->frozen()));
  }
  return numbers;
}

void InqSchedule::save(torch::serialize::OutputArchive& archive) const {
  archive.write("names", c10::IValue(names()));
  archive.write("description", c10::IValue(description()));
  archive.write("fractions", c10::IValue(fractions_));
  archive.write("strategy", c10::IValue(options_.strategy));
  archive.write("position", c10::IValue(static_cast<int64_t>(position_)));
  archive.write("learning_rates", c10::IValue(learning_rates_));
  archive.write("generator", options_.generator->get_state(), /*is_buffer=*/true);
}

void InqSchedule::load(torch::serialize::InputArchive& archive) {
  const auto read = [&](const char* key) {
    c10::IValue value;
    archive.read(key, value);
    return value;
  };
  require(read("names").toStringRef() == names(),
          "InqSchedule: the state is that of another model, with the layers\n{}here\n{}", read("names").toStringRef(),
          names());
  require(read("fractions").toDoubleVector() == fractions_ && read("strategy").toStringRef() == options_.strategy,
          "InqSchedule: the state is that of another schedule: fractions and strategy must be the same");
  require(read("description").toIntVector() == description(),
          "InqSchedule: bit widths, shapes or frozen weights differ from the saved ones; load the model that was saved "
          "with "
          "the schedule before the schedule");
  const std::vector<double> learning_rates = read("learning_rates").toDoubleVector();
  require(learning_rates.size() == learning_rates_.size(),
          "InqSchedule: the optimizer has {} parameter groups, the saved one had {}", learning_rates_.size(),
          learning_rates.size());
  Tensor generator;
  archive.read("generator", generator, /*is_buffer=*/true);
  options_.generator->set_state(generator);
  learning_rates_ = learning_rates;
  position_ = static_cast<size_t>(read("position").toInt());
  if (position_ == 0) return;
  for (Layer& layer : layers_) frozen_.hold(layer.weight, layer.quantizer->frozen());
}

}  // namespace qstep::optim
