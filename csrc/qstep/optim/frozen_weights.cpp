#include "qstep/optim/frozen_weights.h"

#include <ATen/ATen.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>

#include <algorithm>

#include "qstep/core/error.h"

namespace qstep::optim {
namespace {

namespace to = torch::optim;

/// What an optimizer keeps of the past for each entry of one parameter. Undefined tensors are those not made yet.
std::vector<Tensor> running_averages(to::OptimizerParamState& state) {
  if (auto* sgd = dynamic_cast<to::SGDParamState*>(&state)) return {sgd->momentum_buffer()};
  if (auto* adam = dynamic_cast<to::AdamParamState*>(&state)) {
    return {adam->exp_avg(), adam->exp_avg_sq(), adam->max_exp_avg_sq()};
  }
  if (auto* adamw = dynamic_cast<to::AdamWParamState*>(&state)) {
    return {adamw->exp_avg(), adamw->exp_avg_sq(), adamw->max_exp_avg_sq()};
  }
  if (auto* rms = dynamic_cast<to::RMSpropParamState*>(&state)) {
    return {rms->square_avg(), rms->momentum_buffer(), rms->grad_avg()};
  }
  if (auto* adagrad = dynamic_cast<to::AdagradParamState*>(&state)) return {adagrad->sum()};
  return {};
}

}  // namespace

void FrozenWeights::hold(const Tensor& weight, const Tensor& frozen) {
  require(frozen.scalar_type() == at::kBool && frozen.sizes() == weight.sizes(),
          "FrozenWeights: frozen must be Bool of the shape of weight, {}, got {} {}", c10::str(weight.sizes()),
          c10::toString(frozen.scalar_type()), c10::str(frozen.sizes()));
  const auto same = [&](const Held& held) { return held.weight.is_same(weight); };
  held_.erase(std::remove_if(held_.begin(), held_.end(), same), held_.end());
  held_.push_back({weight, frozen.clone(), weight.detach().clone()});
  restore();
}

void FrozenWeights::forget_curvature() {
  for (auto& [parameter, state] : optimizer_.state()) {
    if (auto* lbfgs = dynamic_cast<to::LBFGSParamState*>(state.get())) *lbfgs = to::LBFGSParamState();
  }
}

Tensor FrozenWeights::step(const to::Optimizer::LossClosure& closure) {
  Tensor loss = optimizer_.step(closure);
  restore();
  return loss;
}

void FrozenWeights::restore() {
  const at::NoGradGuard no_grad;
  for (Held& held : held_) {
    at::where_out(held.weight, held.frozen, held.values, held.weight);
    const auto state = optimizer_.state().find(held.weight.unsafeGetTensorImpl());
    if (state == optimizer_.state().end()) continue;
    for (Tensor& average : running_averages(*state->second)) {
      if (average.defined()) average.masked_fill_(held.frozen, 0);
    }
  }
}

}  // namespace qstep::optim
