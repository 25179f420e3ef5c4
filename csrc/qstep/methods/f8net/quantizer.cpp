#include "qstep/methods/f8net/quantizer.h"

#include <ATen/ATen.h>

#include <cmath>

#include "qstep/core/error.h"
#include "qstep/methods/f8net/math.h"
#include "qstep/methods/functional.h"

namespace qstep::methods {
namespace {

constexpr int64_t largest_range_exponent = 16;  // of a dead tensor's level to that of a live one

void check_options(const std::string& owner, const std::string& format, const std::string& mask, int64_t bit_width) {
  require(format == "std" || format == "grid", "{}: format must be 'std' or 'grid', got '{}'", owner, format);
  require(format == "grid" || bit_width == 8, "{}: format 'std' is defined for 8 bits only, got {}: use 'grid'", owner,
          bit_width);
  require(mask == "pact" || mask == "reference", "{}: mask must be 'pact' or 'reference', got '{}'", owner, mask);
}

std::shared_ptr<F8NetActivationQuantizer> as_f8net(const std::shared_ptr<ActivationQuantizer>& quantizer) {
  auto result = std::dynamic_pointer_cast<F8NetActivationQuantizer>(quantizer);
  require(result != nullptr, "F8NetActivationQuantizer: all tensors of the network must be quantized by F8Net, got {}",
          quantizer->name());
  return result;
}

}  // namespace

// --- weights ---------------------------------------------------------------------------------------------------------

F8NetWeightQuantizer::F8NetWeightQuantizer(int64_t bit_width, F8NetWeightOptions options)
    : WeightQuantizer("F8NetWeightQuantizer", bit_width, symmetric_codes("F8NetWeightQuantizer", bit_width)),
      options_(std::move(options)),
      zero_point_(at::zeros({}, at::kInt)) {
  check_options(name(), options_.format, options_.mask, bit_width);
  set_ready();
}

void F8NetWeightQuantizer::initialize(const Tensor& weight) {
  require_finite("weights", weight);
  if (options_.format == "grid" || weight.numel() == 0) return;
  const Tensor values = weight.detach().to(at::kDouble);
  const auto [low, high] = at::aminmax(values);
  const auto first = low.item<double>();
  require(values.numel() == 1 || first == 0 || first != high.item<double>(),
          "{}: the rule of format 'std' needs weights of more than one value: use 'grid'", name());
  const Tensor length = format_of(weight.detach());
  const auto largest = std::ldexp(static_cast<double>(quant_max()), -length.item<int>());
  const double mean = values.mean().item<double>();
  require(
      std::abs(mean) <= largest,
      "{}: the rule of format 'std' is for weights around zero, but their mean is {} where the format that it gives "
      "ends at {}: use 'grid'",
      name(), mean, largest);
}

Tensor F8NetWeightQuantizer::format_of(const Tensor& weight) const {
  return functional::f8net_format(weight, {.word_length = bit_width(), .is_signed = true, .rule = options_.format});
}

QuantizedWeight F8NetWeightQuantizer::forward(const Tensor& weight) {
  const Tensor length = format_of(weight);
  const Tensor values =
      functional::fixed_point(weight, length, {.word_length = bit_width(), .is_signed = true, .mask = options_.mask});
  return {values, functional::power_of_two(-length), zero_point_};
}

// --- activations: eta, and who shares it -----------------------------------------------------------------------------

F8NetActivationQuantizer::F8NetActivationQuantizer(int64_t bit_width, bool nonnegative, F8NetActivationOptions options)
    : ActivationQuantizer("F8NetActivationQuantizer", bit_width,
                          (nonnegative ? unsigned_codes : symmetric_codes)("F8NetActivationQuantizer", bit_width)),
      options_(std::move(options)),
      chain_unsigned_(nonnegative) {
  check_options(name(), options_.format, options_.mask, bit_width);
  check_alpha_init(name(), options_.alpha_init);
  require(options_.momentum > 0 && options_.momentum <= 1, "{}: momentum must be in (0, 1], got {}", name(),
          options_.momentum);
  options_.rectified = options_.rectified && nonnegative;
  if (options_.clipping) alpha_ = register_module("alpha", std::make_shared<ClippingLevel>());
  fraction_length_ = register_buffer("fraction_length", at::full({}, 6, at::kInt));
  range_exponent_ = register_buffer("range_exponent", at::zeros({}, at::kInt));
  average_ = register_buffer("average", at::full({}, 6.0));
  frozen_ = register_buffer("frozen", at::zeros({}, at::kBool));
  zero_point_ = at::zeros({}, at::kInt);
  offset_ = at::zeros({});
}

F8NetActivationQuantizer& F8NetActivationQuantizer::leader() {
  if (source_ && compensation_ == 1) return source_->leader();
  return leader_ ? leader_->leader() : *this;
}

std::vector<std::shared_ptr<ActivationQuantizer>> F8NetActivationQuantizer::depends_on() const {
  std::vector<std::shared_ptr<ActivationQuantizer>> result;
  for (const Ptr& quantizer : {leader_, source_}) {
    if (!quantizer) continue;
    result.push_back(quantizer);
    for (const auto& further : quantizer->depends_on()) result.push_back(further);
  }
  return result;
}

int64_t F8NetActivationQuantizer::levels() const {
  return f8net::largest_code(static_cast<int32_t>(bit_width()), !leader().chain_unsigned_);
}

Tensor F8NetActivationQuantizer::exponent() const {
  if (source_) return source_->exponent();
  if (!leader().alpha_) return at::zeros_like(fraction_length_);
  const Tensor exponent = fraction_length_ + range_exponent_;
  return is_signed() && leader().chain_unsigned_ ? exponent + 1 : exponent;
}

std::optional<Tensor> F8NetActivationQuantizer::alpha() const {
  const std::shared_ptr<ClippingLevel>& level = leader().alpha_;
  return level ? std::optional(level->value()) : std::nullopt;
}

std::optional<Tensor> F8NetActivationQuantizer::eta() const {
  if (source_) return *source_->eta() * compensation_;
  const std::optional<Tensor> level = alpha();
  return level ? functional::f8net_eta(*level, exponent(), levels()) : at::ones_like(average_);
}

std::optional<Tensor> F8NetActivationQuantizer::ratio_to(const ActivationQuantizer& other) const {
  const auto& target = dynamic_cast<const F8NetActivationQuantizer&>(other);
  if (target.options_.reference_residual) return std::nullopt;
  return functional::power_of_two(exponent() - target.exponent());
}

void F8NetActivationQuantizer::drop_alpha() {
  if (alpha_) unregister_module("alpha");
  alpha_ = nullptr;
}

void F8NetActivationQuantizer::join(const std::shared_ptr<ActivationQuantizer>& other) {
  const Ptr its = as_f8net(other);
  for (const F8NetActivationQuantizer* q : {this, its.get()}) {
    require(!q->source_ || q->compensation_ == 1,
            "{}: cannot add the mean over a window whose size is not a power of two", name());
  }
  const auto shared = [](F8NetActivationQuantizer& q) {
    return std::static_pointer_cast<F8NetActivationQuantizer>(q.shared_from_this());
  };
  const Ptr mine = shared(leader());
  const Ptr theirs = shared(its->leader());
  if (mine == theirs) return;
  require(bit_width() == its->bit_width(), "{}: adds tensors of one word length only, got {} and {} bits", name(),
          bit_width(), its->bit_width());
  const bool fresh = mine.get() == this;
  const Ptr& first = fresh ? theirs : mine;
  const Ptr& second = fresh ? mine : theirs;
  if (!second->alpha_) first->drop_alpha();
  second->drop_alpha();
  second->leader_ = first;
  first->chain_unsigned_ = first->chain_unsigned_ || second->chain_unsigned_;
}

void F8NetActivationQuantizer::follow(const std::shared_ptr<ActivationQuantizer>& source, double compensation) {
  source_ = as_f8net(source);
  compensation_ = compensation;
  drop_alpha();
}

void F8NetActivationQuantizer::hold_real_values(bool entering) {
  require(!source_ || compensation_ == 1,
          "{}: a mean over a window whose size is not a power of two cannot be an output", name());
  leader().drop_alpha();
  if (entering) {  // not a rectified tensor, and the same at every step: one search instead of the rule
    options_.format = "grid";
    options_.momentum = 0;
  }
}

// --- activations: format ---------------------------------------------------------------------------------------------

bool F8NetActivationQuantizer::format_moves() const {
  return is_training() && options_.momentum > 0 && !frozen_.item<bool>();
}

Tensor F8NetActivationQuantizer::scale() const {
  const bool of_batch = is_training() && options_.reference_fl && batch_length_;
  return functional::power_of_two(-(of_batch ? *batch_length_ : fraction_length_));
}

void F8NetActivationQuantizer::freeze(bool frozen) {
  frozen_.fill_(frozen);
  batch_length_.reset();
}

Tensor F8NetActivationQuantizer::format_of(const Tensor& x) const {
  return functional::f8net_format(
      x,
      {.word_length = bit_width(), .is_signed = is_signed(), .rule = options_.format, .rectified = options_.rectified});
}

void F8NetActivationQuantizer::advance() {
  if (calibrating() || !format_moves()) return;
  const at::NoGradGuard guard;
  fraction_length_.copy_(
      average_.round().clamp_(0, f8net::largest_fraction_length(static_cast<int32_t>(bit_width()), is_signed())));
}

// --- activations: calibration and forward ----------------------------------------------------------------------------

void F8NetActivationQuantizer::start_calibration() {
  ActivationQuantizer::start_calibration();
  leader().alpha_known_ = false;
}

void F8NetActivationQuantizer::finish_calibration() {
  if (!calibrating()) return;  // one that follows this one was first
  if (source_) source_->finish_calibration();
  ActivationQuantizer::finish_calibration();
}

Tensor F8NetActivationQuantizer::first_alpha(const Tensor& samples) const {
  if (const double* const constant = std::get_if<double>(&options_.alpha_init)) return at::full({}, *constant);
  if (std::get<std::string>(options_.alpha_init) == "max") return samples.abs().max();
  const auto [scale, offset] = functional::lsq_activation_init(
      samples, {.quant_min = quant_min(), .quant_max = quant_max(), .learn_offset = false, .method = "mse"});
  return scale * quant_max();
}

void F8NetActivationQuantizer::initialize(const Tensor& samples) {
  const at::NoGradGuard guard;
  F8NetActivationQuantizer& chain = leader();
  if (chain.alpha_ && !source_) {
    Tensor alpha = first_alpha(samples).to(average_.device());
    alpha = at::where(alpha > 0, alpha, at::ones_like(alpha));
    if (!chain.alpha_known_) {
      chain.alpha_->set(alpha);
    } else if (!options_.private_range) {
      chain.alpha_->set(at::maximum(alpha, chain.alpha_->value()));
    }
    chain.alpha_known_ = true;
    if (options_.private_range) {
      constexpr double rounding = 1e-3;  // of the division: the leader's own exponent is 0
      const Tensor exponent = ((alpha / chain.alpha_->value()).log2() - rounding).ceil();
      range_exponent_.copy_(exponent.clamp(-largest_range_exponent, largest_range_exponent));
    }
  }
  // The first format is that of the real values: with a clipping level of a few deviations, eta starts near 1.
  average_.copy_(format_of(source_ ? samples / eta()->to(samples.device()) : samples));
  fraction_length_.copy_(average_);
  set_ready();
}

Tensor F8NetActivationQuantizer::quantize(const Tensor& x) {
  Tensor length = fraction_length_;
  if (format_moves() && x.numel() > 0) {
    const at::NoGradGuard guard;
    const Tensor of_batch = format_of(x);
    average_.lerp_(of_batch.to(at::kFloat), options_.momentum);
    if (options_.reference_fl) batch_length_ = length = of_batch;
  }
  return functional::fixed_point(x, length,
                                 {.word_length = bit_width(), .is_signed = is_signed(), .mask = options_.mask});
}

}  // namespace qstep::methods
