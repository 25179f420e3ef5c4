#pragma once
// Which parameters an optimizer should decay, and which learn at a rate of their own.
#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <vector>

namespace qstep {

/// The parameters of a model, each in one group. Decay suits weights and, in PACT, clipping levels (Choi et al., 2018, section 3: L2 on
/// alpha, by default as strong as on weights); it would draw a scale or an offset to 0, where no code is left.
///
///   const auto groups = qstep::parameter_groups(*net);
///   torch::optim::SGD optimizer(groups.weights, torch::optim::SGDOptions(0.01).momentum(0.9).weight_decay(1e-4));
///   optimizer.add_param_group({groups.rest, std::make_unique<torch::optim::SGDOptions>(torch::optim::SGDOptions(0.01).momentum(0.9))});
struct ParameterGroups {
  std::vector<at::Tensor> weights;          ///< of two dimensions or more
  std::vector<at::Tensor> rest;             ///< biases, normalization
  std::vector<at::Tensor> clipping_levels;  ///< PACT's alpha
  std::vector<at::Tensor> scales;           ///< all other parameters of quantizers: scales, offsets
};

ParameterGroups parameter_groups(const torch::nn::Module& model);

}  // namespace qstep
