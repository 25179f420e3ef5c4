#pragma once
// PWLQ as modules. README.md has the equations and defaults.
#include "qstep/methods/functional.h"
#include "qstep/methods/quantizer.h"

namespace qstep::methods {

struct PwlqWeightOptions {
  bool per_channel = true;            ///< else breakpoints, steps and correction of the whole layer
  int64_t breakpoints = 1;            ///< 1 to 3
  std::string estimate = "gaussian";  ///< as functional::PwlqOptions, like the next two
  std::string scheme = "paper";
  std::string bias_correction = "repo";
  std::string representation = "piecewise";  ///< the paper's accumulators; or "code_book": all levels on one grid
};

/// Breakpoints and steps follow the weights: nothing is learned or calibrated. Gradients pass straight through.
class PwlqWeightQuantizer : public WeightQuantizer {
 public:
  explicit PwlqWeightQuantizer(int64_t bit_width, const PwlqWeightOptions& options = {});
  void initialize(const Tensor& weight) override;
  QuantizedWeight forward(const Tensor& weight) override;
  LoweredWeight lowered(const QuantizedWeight& weight) const override;

 private:
  bool code_book_;
  functional::PwlqOptions options_;
};

struct PwlqActivationOptions {
  int64_t top_k = 10;       ///< a batch's range goes from the median of its k smallest values to that of its k largest
  bool asymmetric = false;  ///< cover the range itself; else a range with negative values becomes symmetric
};

/// A fixed affine grid over the batches' mean range.
class PwlqActivationQuantizer : public ActivationQuantizer {
 public:
  explicit PwlqActivationQuantizer(int64_t bit_width, PwlqActivationOptions options = {});
  Tensor scale() const override { return scale_; }
  Tensor zero_point() const override { return zero_point_; }
  Tensor offset() const override { return offset_; }

 protected:
  Tensor quantize(const Tensor& x) override;
  Tensor sample(const Tensor& x) const override;
  void initialize(const Tensor& samples) override;

 private:
  PwlqActivationOptions options_;
  Tensor scale_;  // buffers
  Tensor zero_point_;
  Tensor offset_;
};

}  // namespace qstep::methods
