#pragma once
// LSQ and LSQ+ as modules. README.md has the equations, initialisations and defaults.
#include <optional>
#include <string>

#include "qstep/methods/quantizer.h"

namespace qstep::methods {

struct LsqPlusWeightOptions {
  bool per_channel = false;                         ///< one scale per output channel instead of one
  std::string rule = "lsq_plus";                    ///< first scale: "lsq_plus" or "lsq"
  std::optional<double> grad_scale = std::nullopt;  ///< default: 1 / sqrt(elements per scale * quant_max)
  std::string boundary = "strict";
};

/// Symmetric signed codes, learned scale.
class LsqPlusWeightQuantizer : public WeightQuantizer {
 public:
  /// shape: of the weight, [out, ...].
  LsqPlusWeightQuantizer(int64_t bit_width, at::IntArrayRef shape, LsqPlusWeightOptions options = {});
  void initialize(const Tensor& weight) override;
  QuantizedWeight forward(const Tensor& weight) override;

 private:
  LsqPlusWeightOptions options_;
  double grad_scale_;
  std::shared_ptr<LearnedScale> scale_;
  Tensor zero_point_;
};

struct LsqPlusActivationOptions {
  /// 1 unsigned, 2 signed, 3 signed with offset, 4 unsigned with offset. 1 becomes 2 where no activation function made the tensor.
  int64_t configuration = 4;
  std::string init = "mse";                         ///< or "min_max"
  std::optional<double> grad_scale = std::nullopt;  ///< default: 1 / sqrt(elements * quant_max)
  std::string boundary = "strict";
};

class LsqPlusActivationQuantizer : public ActivationQuantizer {
 public:
  /// nonnegative: whether an activation function made the tensor.
  LsqPlusActivationQuantizer(int64_t bit_width, bool nonnegative, LsqPlusActivationOptions options = {});
  Tensor scale() const override { return scale_->value(); }
  Tensor zero_point() const override { return zero_point_; }
  Tensor offset() const override { return offset_; }
  std::optional<Tensor> residual() const override;

 protected:
  Tensor quantize(const Tensor& x) override;
  void initialize(const Tensor& samples) override;

 private:
  bool learns_offset() const { return options_.configuration >= 3; }

  LsqPlusActivationOptions options_;
  std::shared_ptr<LearnedScale> scale_;
  Tensor offset_;  // parameter in configurations 3 and 4
  Tensor zero_point_;
};

}  // namespace qstep::methods
