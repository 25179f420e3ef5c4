#include "qstep/graph/convert.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "qstep/core/error.h"
#include "qstep/nn/layers.h"

namespace qstep {
namespace {

template <class Visit>
void for_each_layer(torch::nn::Module& model, const Visit& visit) {
  for (const auto& item : model.named_modules("", false)) {
    if (auto* layer = dynamic_cast<nn::Layer*>(item.value().get())) visit(item.key(), *layer);
  }
}

// Sets a mode and puts the old one back, whatever happens between.
class Evaluating {
 public:
  explicit Evaluating(torch::nn::Module& model) : model_(model), training_(model.is_training()) { model.eval(); }
  ~Evaluating() { model_.train(training_); }
  Evaluating(const Evaluating&) = delete;
  Evaluating& operator=(const Evaluating&) = delete;

 private:
  torch::nn::Module& model_;
  bool training_;
};

}  // namespace

void calibrate(torch::nn::Module& model, const ForwardFunction& forward, const std::vector<at::Tensor>& batches) {
  require(!batches.empty(), "calibrate: there is no batch");
  const at::NoGradGuard no_grad;
  const Evaluating evaluating(model);
  const auto finish = [&](const auto& visit) {
    for_each_layer(model, [&](const std::string&, nn::Layer& layer) {
      layer.set_calibrating(false);
      if (layer.output()) visit(*layer.output());
    });
  };
  for_each_layer(model, [](const std::string&, nn::Layer& layer) {
    layer.initialize_weights();
    layer.set_calibrating(true);
    if (layer.output()) layer.output()->start_calibration();
  });
  try {
    for (const at::Tensor& batch : batches) forward(batch);
  } catch (...) {
    finish([](methods::ActivationQuantizer& quantizer) { quantizer.cancel_calibration(); });
    throw;
  }
  finish([](methods::ActivationQuantizer& quantizer) { quantizer.finish_calibration(); });
}

ir::Graph lower(const std::function<ir::ValueId(ir::Builder&, ir::ValueId)>& lower, std::vector<int64_t> input_shape,
                core::RequantPolicy policy) {
  ir::Builder builder(policy);
  const ir::ValueId last = lower(builder, builder.input("x", std::move(input_shape)));
  builder.output(builder.dequantize("output", last));
  return builder.finish();
}

engine::IntegerNetwork convert(const std::function<ir::ValueId(ir::Builder&, ir::ValueId)>& lower,
                               std::vector<int64_t> input_shape, core::RequantPolicy policy) {
  return engine::IntegerNetwork(qstep::lower(lower, std::move(input_shape), policy));
}

int64_t Comparison::total_codes() const {
  return std::accumulate(layers.begin(), layers.end(), int64_t{0},
                         [](int64_t n, const LayerComparison& l) { return n + l.compared; });
}

int64_t Comparison::differing_codes() const {
  return std::accumulate(layers.begin(), layers.end(), int64_t{0},
                         [](int64_t n, const LayerComparison& l) { return n + l.differing; });
}

Comparison compare(torch::nn::Module& model, const ForwardFunction& forward, const engine::IntegerNetwork& net,
                   const at::Tensor& x) {
  const at::Tensor input = x.to(at::kCPU, at::kFloat).contiguous();
  const std::vector<engine::Input> inputs{{input.sizes().vec(), input.const_data_ptr<float>()}};
  const std::map<std::string, engine::Tensor> captured = net.capture(inputs);
  const at::NoGradGuard no_grad;
  const Evaluating evaluating(model);
  for_each_layer(model, [](const std::string&, nn::Layer& layer) { layer.set_recording(true); });
  forward(x);
  Comparison result;
  for_each_layer(model, [&](const std::string& name, nn::Layer& layer) {
    const auto theirs = captured.find(name);
    if (theirs == captured.end() || !layer.recorded()) return;
    const at::Tensor ours = layer.recorded()->cpu().contiguous();
    require(ours.sizes().vec() == theirs->second.shape, "compare: layer '{}' has other shapes in model and network",
            name);
    const auto count = [&]<class T>(const std::vector<T>& data) {
      const T* values = ours.const_data_ptr<T>();
      int64_t differing = 0;
      for (size_t i = 0; i < data.size(); ++i) differing += values[i] != data[i] ? 1 : 0;
      return differing;
    };
    result.layers.push_back({name, ours.numel(), std::visit(count, theirs->second.data)});
  });
  for_each_layer(model, [](const std::string&, nn::Layer& layer) { layer.set_recording(false); });
  require(!result.layers.empty(), "compare: the network has no layer under a name of the model");
  return result;
}

}  // namespace qstep
