#include "qstep/nn/qconfig.h"

namespace qstep {

namespace {

auto lsq_plus_weights(const methods::LsqPlusWeightOptions& options) {
  return [options](int64_t bit_width, at::IntArrayRef shape) {
    return std::make_shared<methods::LsqPlusWeightQuantizer>(bit_width, shape, options);
  };
}

}  // namespace

QConfig QConfig::lsq_plus(const LsqPlusOptions& options) {
  QConfig config{.weight_bits = options.weight_bits, .act_bits = options.act_bits};
  config.make_weight = lsq_plus_weights(options.weight);
  config.make_activation = [activation = options.activation](int64_t bit_width, bool nonnegative) {
    return std::make_shared<methods::LsqPlusActivationQuantizer>(bit_width, nonnegative, activation);
  };
  return config;
}

QConfig QConfig::lsq(int64_t weight_bits, int64_t act_bits, bool per_channel) {
  return lsq_plus({.weight_bits = weight_bits,
                   .act_bits = act_bits,
                   .weight = {.per_channel = per_channel, .rule = "lsq"},
                   .activation = {.configuration = 1}});
}

QConfig QConfig::iao(const IaoOptions& options) {
  QConfig config{.weight_bits = options.weight_bits, .act_bits = options.act_bits, .fold_batch_norm = true};
  config.make_weight = [per_channel = options.per_channel](int64_t bit_width, at::IntArrayRef) {
    return std::make_shared<methods::IaoWeightQuantizer>(bit_width, per_channel);
  };
  config.make_activation = [activation = options.activation](int64_t bit_width, bool) {
    return std::make_shared<methods::IaoActivationQuantizer>(bit_width, activation);
  };
  return config;
}

QConfig QConfig::pact(const PactOptions& options) {
  QConfig config{.weight_bits = options.weight_bits, .act_bits = options.act_bits};
  config.make_weight = lsq_plus_weights(options.weight);
  config.make_activation = [activation = options.activation](int64_t bit_width, bool nonnegative) {
    return std::make_shared<methods::PactActivationQuantizer>(bit_width, nonnegative, activation);
  };
  return config;
}

QConfig QConfig::pwlq(const PwlqOptions& options) {
  QConfig config{.weight_bits = options.weight_bits, .act_bits = options.act_bits, .fold_batch_norm = true};
  config.make_weight = [weight = options.weight](int64_t bit_width, at::IntArrayRef) {
    return std::make_shared<methods::PwlqWeightQuantizer>(bit_width, weight);
  };
  config.make_activation = [activation = options.activation](int64_t bit_width, bool) {
    return std::make_shared<methods::PwlqActivationQuantizer>(bit_width, activation);
  };
  return config;
}

QConfig QConfig::f8net(const F8NetOptions& options) {
  QConfig config{.weight_bits = options.weight_bits,
                 .act_bits = options.act_bits,
                 .fold_batch_statistics = true,
                 .nonnegative_input = options.nonnegative_input,
                 .requantization = core::RequantPolicy::shift};
  config.make_weight = [weight = options.weight](int64_t bit_width, at::IntArrayRef) {
    return std::make_shared<methods::F8NetWeightQuantizer>(bit_width, weight);
  };
  config.make_activation = [activation = options.activation](int64_t bit_width, bool nonnegative) {
    return std::make_shared<methods::F8NetActivationQuantizer>(bit_width, nonnegative, activation);
  };
  return config;
}

QConfig QConfig::inq(const InqOptions& options) {
  QConfig config{.weight_bits = options.weight_bits, .act_bits = options.act_bits.value_or(8)};
  config.make_weight = [weight = options.weight](int64_t bit_width, at::IntArrayRef shape) {
    return std::make_shared<methods::InqWeightQuantizer>(bit_width, shape, weight);
  };
  config.make_activation = [activation = options.activation, in_float = !options.act_bits](
                               int64_t bit_width, bool) -> std::shared_ptr<methods::ActivationQuantizer> {
    if (in_float) return std::make_shared<methods::FloatActivation>();
    return std::make_shared<methods::IaoActivationQuantizer>(bit_width, activation);
  };
  return config;
}

QConfig QConfig::with_bits(int64_t weight, int64_t act) const {
  QConfig config = *this;
  config.weight_bits = weight;
  config.act_bits = act;
  return config;
}

}  // namespace qstep
