#include "qstep/methods/pact/quantizer.h"

#include <ATen/ATen.h>

#include "qstep/core/error.h"
#include "qstep/methods/functional.h"
#include "qstep/methods/pact/math.h"

namespace qstep::methods {
namespace {

constexpr const char* quantizer_name = "PactActivationQuantizer";

}  // namespace

PactActivationQuantizer::PactActivationQuantizer(int64_t bit_width, bool nonnegative, PactActivationOptions options)
    : ActivationQuantizer(quantizer_name, bit_width,
                          (nonnegative ? unsigned_codes : symmetric_codes)(quantizer_name, bit_width)),
      options_(std::move(options)) {
  check_alpha_init(quantizer_name, options_.alpha_init);
  require(options_.gradient == "pact" || options_.gradient == "ste", "{}: gradient must be 'pact' or 'ste', got '{}'",
          quantizer_name, options_.gradient);
  alpha_ = register_module("alpha", std::make_shared<ClippingLevel>());
  zero_point_ = at::zeros({}, at::kInt);
  offset_ = at::zeros({});
}

Tensor PactActivationQuantizer::scale() const { return functional::pact_scale(alpha(), bit_width(), is_signed()); }

void PactActivationQuantizer::initialize(const Tensor& samples) {
  if (const auto* constant = std::get_if<double>(&options_.alpha_init)) {
    alpha_->set(at::full({}, *constant));
  } else {
    const bool least_error = std::get<std::string>(options_.alpha_init) == "mse";
    const auto [scale, offset] = functional::lsq_activation_init(
        samples, {.quant_min = quant_min(), .quant_max = quant_max(), .method = least_error ? "mse" : "min_max"});
    alpha_->set(scale * static_cast<double>(quant_max()));
  }
  set_ready();
}

Tensor PactActivationQuantizer::quantize(const Tensor& x) {
  return functional::pact(x, alpha(),
                          {.bit_width = bit_width(), .is_signed = is_signed(), .gradient = options_.gradient});
}

}  // namespace qstep::methods
