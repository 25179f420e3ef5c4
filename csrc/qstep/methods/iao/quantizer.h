#pragma once
// IAO as modules. README.md has the equations and defaults.
#include "qstep/methods/quantizer.h"

namespace qstep::methods {

/// The grid follows the weights' own range at every step. The most negative code is never used.
class IaoWeightQuantizer : public WeightQuantizer {
 public:
  /// per_channel: symmetric codes with one scale per output channel instead of one asymmetric range per tensor.
  IaoWeightQuantizer(int64_t bit_width, bool per_channel);
  void initialize(const Tensor& weight) override;
  QuantizedWeight forward(const Tensor& weight) override;

 private:
  bool per_channel_;
};

struct IaoActivationOptions {
  double smoothing = 0.99;  ///< weight of the past in the moving average of ranges
  int64_t delay = 0;        ///< training steps before quantization starts
};

/// Unsigned codes over a moving average of the batches' ranges.
class IaoActivationQuantizer : public ActivationQuantizer {
 public:
  explicit IaoActivationQuantizer(int64_t bit_width, IaoActivationOptions options = {});
  Tensor scale() const override;
  Tensor zero_point() const override;
  Tensor offset() const override { return offset_; }
  bool active() const override { return active_; }
  /// Stops the moving average (and starts quantizing, whatever the delay).
  void freeze(bool frozen = true);

 protected:
  Tensor quantize(const Tensor& x) override;
  void initialize(const Tensor& samples) override;

 private:
  IaoActivationOptions options_;
  bool active_ = true;
  Tensor min_;  // buffers
  Tensor max_;
  Tensor step_;
  Tensor frozen_;
  Tensor offset_;
};

}  // namespace qstep::methods
