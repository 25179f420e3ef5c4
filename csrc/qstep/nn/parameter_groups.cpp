#include "qstep/nn/parameter_groups.h"

#include <torch/nn/modules/normalization.h>

#include <unordered_set>

#include "qstep/methods/clipping_level.h"
#include "qstep/methods/quantizer.h"

namespace qstep {
namespace {

using Identities = std::unordered_set<const at::TensorImpl*>;

template <class... Kinds>
Identities parameters_of(const torch::nn::Module& model) {
  Identities found;
  for (const auto& module : model.modules(/*include_self=*/false)) {
    if (!(... || (dynamic_cast<const Kinds*>(module.get()) != nullptr))) continue;
    for (const at::Tensor& parameter : module->parameters()) found.insert(parameter.unsafeGetTensorImpl());
  }
  return found;
}

}  // namespace

ParameterGroups parameter_groups(const torch::nn::Module& model) {
  const Identities levels = parameters_of<methods::ClippingLevel>(model);
  const Identities scales = parameters_of<methods::Quantizer>(model);
  const Identities norms = parameters_of<torch::nn::LayerNormImpl>(model);  // others have one dimension
  ParameterGroups groups;
  Identities seen;
  for (const at::Tensor& parameter : model.parameters()) {
    const auto* const identity = parameter.unsafeGetTensorImpl();
    if (!seen.insert(identity).second) continue;
    if (levels.contains(identity)) {
      groups.clipping_levels.push_back(parameter);
    } else if (scales.contains(identity)) {
      groups.scales.push_back(parameter);
    } else {
      (parameter.dim() >= 2 && !norms.contains(identity) ? groups.weights : groups.rest).push_back(parameter);
    }
  }
  return groups;
}

}  // namespace qstep
