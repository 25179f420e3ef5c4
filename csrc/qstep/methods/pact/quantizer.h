#pragma once
// PACT as a module, for activations. README.md has the equations and defaults.
#include <memory>
#include <string>

#include "qstep/methods/clipping_level.h"
#include "qstep/methods/quantizer.h"

namespace qstep::methods {

struct PactActivationOptions {
  AlphaInit alpha_init = "mse";
  std::string gradient = "pact";  ///< of alpha: "pact" as in the paper, or "ste"
};

/// Codes from 0 up to a learned clipping level alpha, or on both sides of 0 where no activation function made the tensor.
class PactActivationQuantizer : public ActivationQuantizer {
 public:
  /// nonnegative: whether an activation function made the tensor.
  PactActivationQuantizer(int64_t bit_width, bool nonnegative, PactActivationOptions options = {});
  Tensor alpha() const { return alpha_->value(); }  ///< [], > 0
  Tensor scale() const override;
  Tensor zero_point() const override { return zero_point_; }
  Tensor offset() const override { return offset_; }

 protected:
  Tensor quantize(const Tensor& x) override;
  void initialize(const Tensor& samples) override;

 private:
  bool is_signed() const { return quant_min() < 0; }

  PactActivationOptions options_;
  std::shared_ptr<ClippingLevel> alpha_;
  Tensor zero_point_;
  Tensor offset_;
};

}  // namespace qstep::methods
