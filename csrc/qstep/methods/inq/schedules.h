#pragma once
// The papers' schedules: which share of each layer's weights is frozen after each step.
#include <string_view>
#include <vector>

namespace qstep::methods::inq {

/// Cumulative shares of a preset: "alexnet_5bit", "vgg16_5bit", "googlenet_5bit", "resnet18_5bit", "resnet50_5bit",
/// "resnet18_4bit", "resnet18_3bit", "resnet18_2bit". Throws Error listing them for any other name.
/// Zhou et al., Incremental Network Quantization, ICLR 2017, sections 3.1 and 3.3.
std::vector<double> fractions_of(std::string_view preset);

/// Throws Error naming `op` unless there is at least one share, all lie in (0, 1] and none is below the one before.
void check_fractions(std::string_view op, const std::vector<double>& fractions);

}  // namespace qstep::methods::inq
