#pragma once
// F8Net as modules. README.md has the equations and defaults.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "qstep/methods/clipping_level.h"
#include "qstep/methods/quantizer.h"

namespace qstep::methods {

struct F8NetWeightOptions {
  std::string format = "std";  ///< rule of the standard deviation (8 bits only), or "grid": least squared error
  std::string mask = "pact";   ///< where the gradient passes: functional::FixedPointOptions
};

/// Signed fixed point, one format per tensor, chosen anew from the effective weights in every forward pass.
class F8NetWeightQuantizer : public WeightQuantizer {
 public:
  explicit F8NetWeightQuantizer(int64_t bit_width, F8NetWeightOptions options = {});
  void initialize(const Tensor& weight) override;
  QuantizedWeight forward(const Tensor& weight) override;

 private:
  Tensor format_of(const Tensor& weight) const;  ///< fraction length, []

  F8NetWeightOptions options_;
  Tensor zero_point_;
};

struct F8NetActivationOptions {
  AlphaInit alpha_init = "mse";
  bool clipping = true;             ///< learn a clipping level; else eta is 1, for a short fine-tuning
  std::string format = "std";       ///< as in F8NetWeightOptions
  bool rectified = true;            ///< the deviation of a rectified tensor is put back to that of the Gaussian
  double momentum = 0.1;            ///< weight of the batch in the moving average of fraction lengths
  std::string mask = "pact";        ///< as in F8NetWeightOptions
  bool private_range = false;       ///< tensors of a chain clip at levels that are powers of two apart, not at one
  bool reference_fl = false;        ///< in training the batch's format quantizes, while eta follows the moving average
  bool reference_residual = false;  ///< additions ignore that their operands' eta differ
};

/// PACT in fixed point, unsigned behind a ReLU, signed elsewhere. The clipping level alpha is learned through eta = 2^FL
/// alpha / levels in the weights of the layers on both sides. Tensors that additions connect form a chain with one alpha;
/// in a chain with unsigned members a signed one counts in steps of 2 alpha / levels. With private_range (beyond the
/// paper) a tensor clips at 2^range_exponent alpha, the least that holds its own first level, in steps that fit.
class F8NetActivationQuantizer : public ActivationQuantizer {
 public:
  F8NetActivationQuantizer(int64_t bit_width, bool nonnegative, F8NetActivationOptions options = {});

  Tensor scale() const override;
  Tensor zero_point() const override { return zero_point_; }
  Tensor offset() const override { return offset_; }
  std::optional<Tensor> eta() const override;
  std::optional<Tensor> ratio_to(const ActivationQuantizer& other) const override;
  std::vector<std::shared_ptr<ActivationQuantizer>> depends_on() const override;
  void advance() override;
  void join(const std::shared_ptr<ActivationQuantizer>& other) override;
  void follow(const std::shared_ptr<ActivationQuantizer>& source, double compensation) override;
  void hold_real_values(bool entering) override;
  void start_calibration() override;
  void finish_calibration() override;

  Tensor fraction_length() const { return fraction_length_; }  ///< int32, []
  /// The chain's clipping level, [], above 0; nothing where it does not clip.
  std::optional<Tensor> alpha() const;
  /// Stops the moving average of fraction lengths.
  void freeze(bool frozen = true);

 protected:
  Tensor quantize(const Tensor& x) override;
  void initialize(const Tensor& samples) override;

 private:
  using Ptr = std::shared_ptr<F8NetActivationQuantizer>;
  bool is_signed() const { return quant_min() < 0; }
  bool format_moves() const;
  int64_t levels() const;
  Tensor exponent() const;  // eta = alpha / levels * 2^exponent
  Tensor format_of(const Tensor& x) const;
  Tensor first_alpha(const Tensor& samples) const;
  F8NetActivationQuantizer& leader();
  const F8NetActivationQuantizer& leader() const { return const_cast<F8NetActivationQuantizer*>(this)->leader(); }
  void drop_alpha();

  F8NetActivationOptions options_;
  std::shared_ptr<ClippingLevel> alpha_;  // of a leader that clips
  Tensor fraction_length_;                // buffers
  Tensor range_exponent_;
  Tensor average_;
  Tensor frozen_;
  Tensor zero_point_;
  Tensor offset_;
  std::optional<Tensor> batch_length_;  // what the last training step quantized with, for reference_fl
  Ptr leader_;                          // member of the chain that holds alpha, where it is another
  Ptr source_;                          // whose eta this one follows
  double compensation_ = 1;
  bool chain_unsigned_;       // of a leader: whether the chain has an unsigned member
  bool alpha_known_ = false;  // of a leader, while calibrating: whether a member has set alpha
};

}  // namespace qstep::methods
