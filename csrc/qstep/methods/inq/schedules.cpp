#include "qstep/methods/inq/schedules.h"

#include <string>
#include <utility>

#include "qstep/core/error.h"

namespace qstep::methods::inq {
namespace {

const std::vector<std::pair<std::string_view, std::vector<double>>>& presets() {
  static const std::vector<std::pair<std::string_view, std::vector<double>>> table{
      {"alexnet_5bit", {0.3, 0.6, 0.8, 1.0}},
      {"vgg16_5bit", {0.5, 0.75, 0.875, 1.0}},
      {"googlenet_5bit", {0.2, 0.4, 0.6, 0.8, 1.0}},
      {"resnet18_5bit", {0.5, 0.75, 0.875, 1.0}},
      {"resnet50_5bit", {0.5, 0.75, 0.875, 1.0}},
      {"resnet18_4bit", {0.3, 0.5, 0.8, 0.9, 0.95, 1.0}},
      {"resnet18_3bit", {0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0}},
      {"resnet18_2bit", {0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.975, 1.0}},
  };
  return table;
}

}  // namespace

std::vector<double> fractions_of(std::string_view preset) {
  std::string names;
  for (const auto& [name, fractions] : presets()) {
    if (name == preset) return fractions;
    names += names.empty() ? "" : ", ";
    names += name;
  }
  fail("inq_fractions: preset must be one of {}, got '{}'", names, preset);
}

void check_fractions(std::string_view op, const std::vector<double>& fractions) {
  require(!fractions.empty(), "{}: fractions must hold at least one share, got none", op);
  double before = 0.0;
  for (const double fraction : fractions) {
    require(fraction > 0.0 && fraction <= 1.0, "{}: fractions must be in (0, 1], got {}", op, fraction);
    require(fraction >= before, "{}: fractions are cumulative and must not decrease, got {} after {}", op, fraction,
            before);
    before = fraction;
  }
}

}  // namespace qstep::methods::inq
