#pragma once
// calibrate, convert and compare for networks written by hand in C++.
#include <torch/nn/module.h>

#include <functional>
#include <string>
#include <vector>

#include "qstep/engine/network.h"
#include "qstep/ir/builder.h"

namespace qstep {

using ForwardFunction = std::function<at::Tensor(const at::Tensor&)>;

/// First values of every scale, offset and range below `model`: weights from the weights, activations from the batches run through the
/// float layers, batch norm with its moving statistics. The model's mode is left as it was. Throws Error where there is no batch.
void calibrate(torch::nn::Module& model, const ForwardFunction& forward, const std::vector<at::Tensor>& batches);

/// The integer network of a model with one input. `lower` repeats the model's forward pass on a builder: it takes the value of the float
/// input and returns the last layer's; layers are lowered under the names that `compare` shall report.
///
///   auto net = qstep::convert([&](qstep::ir::Builder& b, qstep::ir::ValueId x) {
///     x = model->input->lower(b, "input", {x});
///     x = model->conv->lower(b, "conv", {x});
///     return model->fc->lower(b, "fc", {b.reshape("flatten", x, {0, -1})});
///   }, {1, 1, 28, 28});
///
/// Throws Error for a layer that was never calibrated, or numbers that no integer network can hold.
ir::Graph lower(const std::function<ir::ValueId(ir::Builder&, ir::ValueId)>& lower, std::vector<int64_t> input_shape,
                core::RequantPolicy policy = core::RequantPolicy::exact);
engine::IntegerNetwork convert(const std::function<ir::ValueId(ir::Builder&, ir::ValueId)>& lower,
                               std::vector<int64_t> input_shape,
                               core::RequantPolicy policy = core::RequantPolicy::exact);

/// Codes of one layer (accumulators of a last one).
struct LayerComparison {
  std::string name;
  int64_t compared = 0;
  int64_t differing = 0;
};

struct Comparison {
  std::vector<LayerComparison> layers;
  int64_t total_codes() const;
  int64_t differing_codes() const;
};

/// Runs model.eval() without gradients and the network on x and compares every layer that is registered in the model under the name it
/// was lowered with. Throws Error where there is none, or shapes differ.
Comparison compare(torch::nn::Module& model, const ForwardFunction& forward, const engine::IntegerNetwork& net,
                   const at::Tensor& x);

}  // namespace qstep
