#pragma once
// The learned level that an activation is clipped at: what PACT regularises, and so what an optimizer's parameter groups have to find.
#include <cmath>
#include <string>
#include <string_view>
#include <variant>

#include "qstep/core/error.h"
#include "qstep/methods/quantizer.h"

namespace qstep::methods {

/// Shape [], used as max(|raw|, eps).
class ClippingLevel : public LearnedScale {
 public:
  ClippingLevel() : LearnedScale(at::IntArrayRef{}) {}
};

/// First clipping level: a number above 0; "mse", of least squared error on the calibration batches; or "max", their largest magnitude.
using AlphaInit = std::variant<double, std::string>;

/// Throws unless it is one of these; the message begins with owner.
inline void check_alpha_init(std::string_view owner, const AlphaInit& init) {
  if (const auto* constant = std::get_if<double>(&init)) {
    require(std::isfinite(*constant) && *constant > 0, "{}: alpha_init must be above 0 and finite, got {}", owner,
            *constant);
  } else {
    const auto& rule = std::get<std::string>(init);
    require(rule == "mse" || rule == "max", "{}: alpha_init must be a number, 'mse' or 'max', got '{}'", owner, rule);
  }
}

}  // namespace qstep::methods
