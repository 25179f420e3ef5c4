#pragma once
// The learned level that an activation is clipped at: what PACT regularises, and so what an optimizer's parameter groups have to find.
#include "qstep/methods/quantizer.h"

namespace qstep::methods {

/// Shape [], used as max(|raw|, eps).
class ClippingLevel : public LearnedScale {
 public:
  ClippingLevel() : LearnedScale(at::IntArrayRef{}) {}
};

}  // namespace qstep::methods
