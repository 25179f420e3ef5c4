#include "qstep/methods/pwlq/quantizer.h"

#include <ATen/ATen.h>

#include "qstep/core/error.h"

namespace qstep::methods {

PwlqWeightQuantizer::PwlqWeightQuantizer(int64_t bit_width, const PwlqWeightOptions& options)
    : WeightQuantizer("PwlqWeightQuantizer", bit_width, symmetric_codes("PwlqWeightQuantizer", bit_width)),
      code_book_(options.representation == "code_book"),
      options_{.bit_width = bit_width,
               .axis = options.per_channel ? std::optional<int64_t>(0) : std::nullopt,
               .estimate = options.estimate,
               .breakpoints = options.breakpoints,
               .scheme = options.scheme,
               .bias_correction = options.bias_correction} {
  require(code_book_ || options.representation == "piecewise",
          "PwlqWeightQuantizer: representation must be 'piecewise' or 'code_book', got '{}'", options.representation);
  const at::NoGradGuard guard;
  forward(at::ones({1, 1}));  // a wrong option is better named here than in the first forward pass
  set_ready();
}

void PwlqWeightQuantizer::initialize(const Tensor& weight) { require_finite("weights", weight); }

QuantizedWeight PwlqWeightQuantizer::forward(const Tensor& weight) {
  const Tensor zero_point = at::zeros({}, weight.options().dtype(at::kInt));
  if (code_book_) {
    const functional::PwlqCodeBook book = functional::pwlq_code_book(weight, options_);
    return {.values = book.values, .scale = book.scale, .zero_point = zero_point, .source = weight};
  }
  return {.values = functional::pwlq(weight, options_),
          .scale = at::ones({}, weight.options().requires_grad(false)),
          .zero_point = zero_point,
          .on_grid = false,
          .source = weight};
}

LoweredWeight PwlqWeightQuantizer::lowered(const QuantizedWeight& weight) const {
  const Tensor source = on_host(weight.source, at::kFloat);
  if (code_book_) {
    const functional::PwlqCodeBook book = functional::pwlq_code_book(source, options_);
    const Tensor values = book.values.contiguous();
    return {{values, book.scale, book.levels},
            ir::CodeBookWeight{.shape = source.sizes().vec(),
                               .values = span_of<float>(values),
                               .scale = span_of<float>(book.scale),
                               .levels = span_of<int16_t>(book.levels),
                               .tables = book.levels.size(0)}};
  }
  const functional::PwlqCodes codes = functional::pwlq_encode(source, options_);
  const Tensor negative = codes.negative.to(at::kByte);
  const Tensor constant = codes.constant.expand({source.size(0)}).contiguous();
  return {{codes.region, codes.magnitude, negative, codes.step, codes.start, constant},
          ir::PiecewiseWeight{.shape = source.sizes().vec(),
                              .bit_width = static_cast<int32_t>(bit_width()),
                              .regions = static_cast<int32_t>(codes.step.size(0)),
                              .region = span_of<uint8_t>(codes.region),
                              .magnitude = span_of<uint8_t>(codes.magnitude),
                              .negative = span_of<uint8_t>(negative),
                              .step = span_of<double>(codes.step),
                              .start = span_of<double>(codes.start),
                              .constant = span_of<double>(constant)}};
}

PwlqActivationQuantizer::PwlqActivationQuantizer(int64_t bit_width, PwlqActivationOptions options)
    : ActivationQuantizer("PwlqActivationQuantizer", bit_width, unsigned_codes("PwlqActivationQuantizer", bit_width)),
      options_(options) {
  require(options.top_k >= 1, "PwlqActivationQuantizer: top_k must be at least 1, got {}", options.top_k);
  scale_ = register_buffer("scale", at::ones({}));
  zero_point_ = register_buffer("zero_point", at::zeros({}, at::kInt));
  offset_ = at::zeros({});
}

Tensor PwlqActivationQuantizer::sample(const Tensor& x) const {
  const auto [low, high] = functional::top_k_range(x, options_.top_k);
  return at::stack({low, high}).reshape({1, 2}).to(at::kCPU, at::kFloat);
}

void PwlqActivationQuantizer::initialize(const Tensor& samples) {
  const Tensor range = samples.mean(0);
  const int64_t middle = int64_t{1} << (bit_width() - 1);
  const bool symmetric = !options_.asymmetric && range[0].item<float>() < 0;  // codes from -middle, stored from 0
  const int64_t first = symmetric ? -middle : 0;
  const auto [scale, zero_point] = functional::affine_params(
      range[0], range[1], {.quant_min = first, .quant_max = first + quant_max(), .symmetric = symmetric});
  scale_.copy_(scale);
  zero_point_.copy_(zero_point - first);
  set_ready();
}

Tensor PwlqActivationQuantizer::quantize(const Tensor& x) {
  return functional::fake_quantize_affine(x, scale_, zero_point_, {.quant_min = quant_min(), .quant_max = quant_max()});
}

}  // namespace qstep::methods
