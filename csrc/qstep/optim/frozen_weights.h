#pragma once
// Weights that an optimizer must not move. torch::optim::Optimizer has no hooks: call step() here instead of the
// optimizer's, or restore() after it.
#include <torch/optim/optimizer.h>

#include <vector>

namespace qstep::optim {

using at::Tensor;

/// Holds entries of parameters bit for bit, whatever the optimizer does to them (momentum, weight decay, ...), and keeps
/// their running averages zero: momentum_buffer of SGD and RMSprop; exp_avg, exp_avg_sq, max_exp_avg_sq of Adam and
/// AdamW; square_avg, grad_avg of RMSprop; sum of Adagrad.
class FrozenWeights {
 public:
  /// Keeps a reference to the optimizer.
  explicit FrozenWeights(torch::optim::Optimizer& optimizer) : optimizer_(optimizer) {}

  /// From now on `weight` keeps the values it has where `frozen` (bool, of its shape) is set. Takes the place of an
  /// earlier hold of the same weight.
  void hold(const Tensor& weight, const Tensor& frozen);

  /// Clears what LBFGS knows of the past: gradients, and steps that would still move what is frozen now.
  void forget_curvature();

  /// optimizer.step(closure), then restore().
  Tensor step(const torch::optim::Optimizer::LossClosure& closure = nullptr);

  void restore();

 private:
  struct Held {
    Tensor weight;
    Tensor frozen;
    Tensor values;  // of the whole weight; those that are frozen count
  };

  torch::optim::Optimizer& optimizer_;
  std::vector<Held> held_;
};

}  // namespace qstep::optim
