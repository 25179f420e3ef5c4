#pragma once
// INQ as a module. README.md has the equations and defaults.
#include <string>

#include "qstep/methods/functional.h"
#include "qstep/methods/quantizer.h"

namespace qstep::methods {

struct InqWeightOptions {
  std::string n1_rule = "max";  ///< functional::inq_range
  bool recompute_n1 =
      false;  ///< at every freeze, from the weights as they are then; else n1 stays what it was at first
  bool variable_length = false;  ///< in the checkpoint: one bit for a zero, bit_width bits for other weights
};

/// Powers of two with one scale, 2^n2, per tensor. A frozen weight is the quantized value that freeze() wrote into the
/// parameter and gets no gradient; the others train as real numbers. In eval() all are quantized.
class InqWeightQuantizer : public WeightQuantizer {
 public:
  /// bit_width: 2 to 5. shape: that of the weight.
  InqWeightQuantizer(int64_t bit_width, at::IntArrayRef shape, InqWeightOptions options = {});

  void initialize(const Tensor& weight) override;
  QuantizedWeight forward(const Tensor& weight) override;
  LoweredWeight lowered(const QuantizedWeight& weight) const override;
  bool foldable() const override { return false; }  // what is frozen is the parameter

  /// Freezes `fraction` of the weights altogether (functional::inq_partition) and writes their quantized values into
  /// `weight`, the layer's parameter. Where n1 changes, weights frozen earlier move to the new set.
  void freeze(const Tensor& weight, double fraction, const functional::InqPartitionOptions& options = {});

  const Tensor& frozen() const { return frozen_; }  ///< bool, of the shape of the weight
  bool all_frozen() const { return all_frozen_; }
  int64_t n1() const { return host_n1_; }
  int64_t n2() const;

  void load(torch::serialize::InputArchive& archive) override;

 private:
  void choose_exponents(const Tensor& weight);
  void read_buffers();

  InqWeightOptions options_;
  Tensor frozen_;  // buffers
  Tensor n1_;
  bool all_frozen_ = false;  // their values on the host: no wait for a GPU in forward
  int64_t host_n1_ = 0;
};

}  // namespace qstep::methods
