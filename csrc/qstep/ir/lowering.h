#pragma once
// Parts of the Builder: from real numbers to the constants of a node.
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "qstep/ir/builder.h"

namespace qstep::ir {

/// Throws Error naming the node unless the grid has a positive scale, a finite offset and 2 to 256 codes.
void check_activation_grid(const std::string& name, const Grid& grid);

/// The codes between which a fused activation keeps the result.
std::pair<int32_t, int32_t> clamp_codes(const Target& target, const Grid& grid);

/// The factor as the policy has it. Throws Error naming the node and the channel where it has none.
Multiplier multiplier_for(const std::string& name, size_t channel, double factor, RequantPolicy policy);

/// What a convolution and a linear layer have in common.
struct LayerConstants {
  Weight weight;
  std::vector<int32_t> bias;
  Requantize requantize;
  Value output;
};

/// `input` is the value of codes that the layer takes. Throws Error naming the layer.
LayerConstants lower_layer(const std::string& name, const Value& input, const RealWeight& weight,
                           const ChannelAffine& affine, const std::optional<Target>& target, RequantPolicy policy);

}  // namespace qstep::ir
