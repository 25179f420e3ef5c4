#pragma once
// What to quantize with: makes the quantizers of a layer. C++ twin of qstep.QConfig.
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "qstep/core/requantize.h"
#include "qstep/methods/f8net/quantizer.h"
#include "qstep/methods/iao/quantizer.h"
#include "qstep/methods/inq/quantizer.h"
#include "qstep/methods/lsq_plus/quantizer.h"
#include "qstep/methods/pact/quantizer.h"
#include "qstep/methods/pwlq/quantizer.h"

namespace qstep {

struct QConfig {
  int64_t weight_bits = 8;
  int64_t act_bits = 8;
  bool fold_batch_norm = false;        ///< into the weights (IAO); else into the multiplier of each channel
  bool fold_batch_statistics = false;  ///< as fold_batch_norm, in training with the statistics of the batch (F8Net)
  bool nonnegative_input = false;      ///< the network's input is never negative (images in [0, 1])
  core::RequantPolicy requantization = core::RequantPolicy::exact;
  /// Makers of quantizers; `shape` is that of the weight, `nonnegative` whether an activation function makes the tensor.
  std::function<std::shared_ptr<methods::WeightQuantizer>(int64_t bit_width, at::IntArrayRef shape)> make_weight = {};
  std::function<std::shared_ptr<methods::ActivationQuantizer>(int64_t bit_width, bool nonnegative)> make_activation =
      {};

  struct LsqPlusOptions {
    int64_t weight_bits = 4;
    int64_t act_bits = 4;
    methods::LsqPlusWeightOptions weight = {};
    methods::LsqPlusActivationOptions activation = {};
  };
  static QConfig lsq_plus(const LsqPlusOptions& options);
  static QConfig lsq_plus() { return lsq_plus(LsqPlusOptions()); }

  /// LSQ: no offset, LSQ's first scale of weights.
  static QConfig lsq(int64_t weight_bits = 4, int64_t act_bits = 4, bool per_channel = false);

  struct IaoOptions {
    int64_t weight_bits = 8;
    int64_t act_bits = 8;
    bool per_channel = false;
    methods::IaoActivationOptions activation = {};
  };
  static QConfig iao(const IaoOptions& options);
  static QConfig iao() { return iao(IaoOptions()); }

  /// PACT activations over LSQ+ weights.
  struct PactOptions {
    int64_t weight_bits = 4;
    int64_t act_bits = 4;
    methods::LsqPlusWeightOptions weight = {.per_channel = true};
    methods::PactActivationOptions activation = {};
  };
  static QConfig pact(const PactOptions& options);
  static QConfig pact() { return pact(PactOptions()); }

  struct PwlqOptions {
    int64_t weight_bits = 4;
    int64_t act_bits = 8;
    methods::PwlqWeightOptions weight = {};
    methods::PwlqActivationOptions activation = {};
  };
  static QConfig pwlq(const PwlqOptions& options);
  static QConfig pwlq() { return pwlq(PwlqOptions()); }

  struct F8NetOptions {
    int64_t weight_bits = 8;
    int64_t act_bits = 8;
    bool nonnegative_input = false;
    methods::F8NetWeightOptions weight = {};
    methods::F8NetActivationOptions activation = {};
  };
  /// F8Net: 8-bit fixed-point numbers, shifts instead of multipliers between layers. A network whose output comes from a layer that is not
  /// `last` calls hold_real_values(false) on that layer's output().
  static QConfig f8net(const F8NetOptions& options);
  static QConfig f8net() { return f8net(F8NetOptions()); }

  struct InqOptions {
    int64_t weight_bits = 5;
    std::optional<int64_t> act_bits = 8;  ///< nothing: floating-point activations, for training and comparison only
    methods::InqWeightOptions weight = {};
    methods::IaoActivationOptions activation = {};
  };
  /// INQ: powers of two as weights, which optim::InqSchedule freezes step by step; IAO's activations.
  static QConfig inq(const InqOptions& options);
  static QConfig inq() { return inq(InqOptions()); }

  /// The same with other widths: for a first or last layer.
  QConfig with_bits(int64_t weight, int64_t act) const;
};

}  // namespace qstep
