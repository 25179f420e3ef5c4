// The functions of qstep::functional under C++ autograd, and the quantizers as modules.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/serialize.h>

#include <cmath>
#include <memory>
#include <sstream>

#include "qstep/core/error.h"
#include "qstep/methods/functional.h"
#include "qstep/methods/iao/quantizer.h"
#include "qstep/methods/lsq_plus/quantizer.h"
#include "qstep/methods/pact/quantizer.h"
#include "qstep/methods/pwlq/quantizer.h"

namespace qstep::methods {
namespace {

double item(const at::Tensor& tensor) { return tensor.item<double>(); }
at::Tensor vector(at::ArrayRef<double> values) { return at::tensor(values, at::kDouble).to(at::kFloat); }

TEST(Functional, LsqPlusHasItsGradients) {
  // v = (x - offset) / scale = -3, 0, 0.5, 1.25, 3, 9
  const at::Tensor x = vector({-2.0, -0.5, -0.25, 0.125, 1.0, 4.0}).requires_grad_();
  const at::Tensor scale = at::tensor(0.5).requires_grad_();
  const at::Tensor offset = at::tensor(-0.5).requires_grad_();
  const at::Tensor output = functional::lsq_plus(x, scale, offset, {.quant_min = 0, .quant_max = 3, .grad_scale = 0.5});
  EXPECT_TRUE(at::equal(output, vector({-0.5, -0.5, -0.5, 0.0, 1.0, 1.0})));
  const auto gradients = torch::autograd::grad({output.sum()}, {x, scale, offset});
  EXPECT_TRUE(at::equal(gradients[0], vector({0, 0, 1, 1, 0, 0})));
  EXPECT_FLOAT_EQ(item(gradients[1]), 0.5 * (0 + 0 - 0.5 - 0.25 + 3 + 3));
  EXPECT_FLOAT_EQ(item(gradients[2]), 0.5 * 4);

  const at::Tensor inclusive =
      functional::lsq_plus(x, scale, offset, {.quant_min = 0, .quant_max = 3, .boundary = "inclusive"});
  EXPECT_TRUE(at::equal(torch::autograd::grad({inclusive.sum()}, {x})[0], vector({0, 1, 1, 1, 1, 0})));
}

TEST(Functional, AffineGridOfARangeAndItsGradient) {
  const auto [scale, zero_point] =
      functional::affine_params(vector({-1.0}), vector({2.0}), {.quant_min = 0, .quant_max = 3});
  EXPECT_TRUE(at::equal(scale, vector({1.0})));
  EXPECT_EQ(zero_point.item<int32_t>(), 1);
  const at::Tensor x = vector({-1.25, -1.0, 0.5, 2.0, 2.25}).requires_grad_();
  const at::Tensor output = functional::fake_quantize_affine(x, scale, zero_point, {.quant_min = 0, .quant_max = 3});
  EXPECT_TRUE(at::equal(output, vector({-1, -1, 0, 2, 2})));
  EXPECT_TRUE(at::equal(torch::autograd::grad({output.sum()}, {x})[0], vector({0, 1, 1, 1, 0})));
}

TEST(Functional, PactHasItsGradients) {
  const at::Tensor x = vector({-2.0, 0.0, 0.75, 1.5, 9.0}).requires_grad_();
  const at::Tensor alpha = at::tensor(1.5).requires_grad_();  // steps of 0.5
  const at::Tensor output = functional::pact(x, alpha, {.bit_width = 2});
  EXPECT_TRUE(at::equal(output, vector({0, 0, 1, 1.5, 1.5})));  // 0.75 is a tie
  const auto gradients = torch::autograd::grad({output.sum()}, {x, alpha});
  EXPECT_TRUE(at::equal(gradients[0], vector({0, 1, 1, 0, 0})));
  EXPECT_EQ(item(gradients[1]), 2.0);
  const at::Tensor two_sided = functional::pact(x, alpha, {.bit_width = 3, .is_signed = true, .gradient = "ste"});
  EXPECT_TRUE(at::equal(two_sided, vector({-1.5, 0, 1, 1.5, 1.5})));
  EXPECT_NEAR(item(torch::autograd::grad({two_sided.sum()}, {alpha})[0]), -1 + 0.5 / 3 + 2, 1e-6);
  EXPECT_EQ(item(functional::pact_scale(alpha, 3, true)), 0.5);
}

TEST(Functional, BadArgumentsThrowError) {
  const at::Tensor x = at::zeros({2});
  EXPECT_THROW(functional::lsq_plus(x, at::tensor(-1.0), std::nullopt, {.quant_min = 0, .quant_max = 3}), Error);
  EXPECT_THROW(functional::lsq_plus(x, at::tensor(1.0), std::nullopt, {}), Error);
  EXPECT_THROW(functional::pact(x, at::tensor(-1.0), {.bit_width = 4}), Error);
  EXPECT_THROW(functional::pact(x, at::tensor(1.0), {.bit_width = 1}), Error);
  EXPECT_THROW(functional::affine_params(at::tensor(1.0), at::tensor(0.0), {.quant_min = 0, .quant_max = 3}), Error);
}

/// State of `from` into `to` through an archive.
void transfer(const torch::nn::Module& from, torch::nn::Module& to) {
  std::stringstream stream;
  torch::serialize::OutputArchive output;
  from.save(output);
  output.save_to(stream);
  torch::serialize::InputArchive input;
  input.load_from(stream);
  to.load(input);
}

void calibrate(ActivationQuantizer& quantizer, const at::Tensor& x) {
  quantizer.start_calibration();
  EXPECT_TRUE(quantizer.forward(x).is_same(x));
  quantizer.finish_calibration();
}

TEST(LsqPlusWeightQuantizer, LearnsAndKeepsItsScalePositive) {
  at::manual_seed(1);
  const at::Tensor weight = at::randn({4, 3, 3, 3}).requires_grad_();
  LsqPlusWeightQuantizer quantizer(4, weight.sizes(), {.per_channel = true});
  EXPECT_THROW(quantizer.forward(weight), Error);
  quantizer.initialize(weight);
  const QuantizedWeight before = quantizer.forward(weight);
  EXPECT_TRUE(
      at::equal(before.scale, functional::lsq_weight_scale(weight, {.quant_min = -8, .quant_max = 7, .axis = 0})));

  at::Tensor raw = quantizer.parameters().at(0);
  const at::Tensor gradient = torch::autograd::grad({before.values.square().sum()}, {raw})[0];
  EXPECT_GT(item(gradient.abs().sum()), 0.0);
  {
    const at::NoGradGuard guard;
    raw.copy_(at::tensor({-0.25F, 0.25F, 0.0F, -0.0F}));
  }
  const at::Tensor scale = quantizer.forward(weight).scale;
  EXPECT_EQ(item(scale[0]), 0.25);
  EXPECT_EQ(item(scale[1]), 0.25);
  EXPECT_NEAR(item(scale[2]) / item(before.scale[2]), 0x1p-24, 1e-12);

  LsqPlusWeightQuantizer loaded(4, weight.sizes(), {.per_channel = true});
  transfer(quantizer, loaded);
  EXPECT_TRUE(at::equal(loaded.forward(weight).values, quantizer.forward(weight).values));
}

TEST(LsqPlusActivationQuantizer, ConfigurationsHaveTheirCodesAndOffsets) {
  at::manual_seed(2);
  const at::Tensor x = at::silu(at::randn({4000}));
  const auto error_of = [&](int64_t configuration) {
    LsqPlusActivationQuantizer quantizer(2, /*nonnegative=*/true, {.configuration = configuration});
    EXPECT_THROW(quantizer.forward(x), Error);
    calibrate(quantizer, x);
    const bool is_signed = configuration == 2 || configuration == 3;
    EXPECT_EQ(quantizer.quant_min(), is_signed ? -2 : 0);
    EXPECT_EQ(quantizer.quant_max(), is_signed ? 1 : 3);
    EXPECT_EQ(quantizer.parameters().size(), configuration >= 3 ? 2U : 1U);
    EXPECT_EQ(quantizer.residual().has_value(), configuration >= 3);
    const at::Tensor output = quantizer.forward(x);
    EXPECT_TRUE(at::equal(quantizer.decode(quantizer.encode(x)), output.detach()));
    LsqPlusActivationQuantizer loaded(2, true, {.configuration = configuration});
    transfer(quantizer, loaded);
    EXPECT_TRUE(at::equal(loaded.forward(x), output));
    EXPECT_EQ(loaded.grid(), quantizer.grid());
    return item((output - x).square().mean());
  };
  const double errors[] = {error_of(1), error_of(2), error_of(3), error_of(4)};
  EXPECT_LT(errors[3], errors[0]);  // an offset below 0 pays for swish
  EXPECT_NEAR(errors[2] / errors[3], 1.0, 0.01);
  EXPECT_EQ(LsqPlusActivationQuantizer(4, /*nonnegative=*/false, {.configuration = 1}).quant_min(), -8);
}

TEST(PactActivationQuantizer, LearnsItsClippingLevel) {
  at::manual_seed(3);
  const at::Tensor x = at::randn({4000});
  for (const bool nonnegative : {true, false}) {
    PactActivationQuantizer quantizer(4, nonnegative);
    EXPECT_THROW(quantizer.forward(x), Error);
    calibrate(quantizer, nonnegative ? x.relu() : x);
    EXPECT_EQ(quantizer.quant_min(), nonnegative ? 0 : -7);
    EXPECT_EQ(quantizer.quant_max(), nonnegative ? 15 : 7);
    const at::Tensor output = quantizer.forward(x);
    EXPECT_TRUE(at::equal(quantizer.decode(quantizer.encode(x)), output.detach()));
    EXPECT_GT(item(torch::autograd::grad({output.abs().sum()}, {quantizer.parameters().at(0)})[0]), 0.0);
    PactActivationQuantizer loaded(4, nonnegative);
    transfer(quantizer, loaded);
    EXPECT_TRUE(at::equal(loaded.forward(x), output));
    EXPECT_EQ(loaded.grid(), quantizer.grid());
  }
  PactActivationQuantizer constant(4, true, {.alpha_init = 10.0});
  calibrate(constant, x);
  EXPECT_EQ(item(constant.alpha()), 10.0);
  PactActivationQuantizer largest(4, false, {.alpha_init = "max"});
  calibrate(largest, x);
  EXPECT_NEAR(item(largest.alpha() / x.abs().max()), 1.0, 1e-6);
  EXPECT_THROW(PactActivationQuantizer(4, true, {.alpha_init = 0.0}), Error);
  EXPECT_THROW(PactActivationQuantizer(4, true, {.alpha_init = "median"}), Error);
  EXPECT_THROW(PactActivationQuantizer(4, true, {.gradient = "lsq"}), Error);
}

TEST(IaoWeightQuantizer, FollowsTheRangeOfTheWeights) {
  const at::Tensor weight = vector({-1.0, 0.0, 0.5, 2.0}).reshape({2, 2});
  IaoWeightQuantizer per_tensor(8, /*per_channel=*/false);
  const QuantizedWeight quantized = per_tensor.forward(weight);
  EXPECT_FLOAT_EQ(item(quantized.scale), 3.0 / 254);
  EXPECT_EQ(quantized.zero_point.item<int32_t>(), -42);  // -127 + 254 / 3
  IaoWeightQuantizer per_channel(8, /*per_channel=*/true);
  EXPECT_TRUE(at::allclose(per_channel.forward(weight).scale, vector({1.0 / 127, 2.0 / 127})));
}

TEST(IaoActivationQuantizer, AveragesRangesStartsLateAndFreezes) {
  IaoActivationQuantizer quantizer(8, {.smoothing = 0.5, .delay = 1});
  calibrate(quantizer, vector({0.0, 1.0}));
  const at::Tensor x = vector({-1.0, 0.1234, 3.0});
  EXPECT_TRUE(at::equal(quantizer.forward(x), x));  // before the delay: observed, not quantized
  EXPECT_FALSE(quantizer.active());
  EXPECT_FLOAT_EQ(quantizer.grid().scale, (2.0F + 0.5F) / 255);
  const at::Tensor quantized = quantizer.forward(x);  // the range is now [-0.75, 2.5]
  EXPECT_TRUE(quantizer.active());
  EXPECT_FALSE(at::equal(quantized, x));
  EXPECT_NEAR(item(quantized[2]), 2.5, 0.01);

  quantizer.freeze();
  const core::Grid grid = quantizer.grid();
  quantizer.forward(x * 100);
  EXPECT_EQ(quantizer.grid(), grid);
  IaoActivationQuantizer loaded(8, {.smoothing = 0.5, .delay = 1});
  transfer(quantizer, loaded);
  EXPECT_EQ(loaded.grid(), grid);
  loaded.eval();
  EXPECT_TRUE(at::equal(loaded.forward(x), quantizer.forward(x)));
}

TEST(PwlqWeightQuantizer, LowersWhatItGives) {
  at::manual_seed(3);
  const at::Tensor weight = at::randn({4, 3, 3, 3}).requires_grad_();
  for (const char* representation : {"piecewise", "code_book"}) {
    PwlqWeightQuantizer quantizer(4, {.breakpoints = 2, .representation = representation});
    quantizer.initialize(weight);
    const QuantizedWeight quantized = quantizer.forward(weight);
    EXPECT_LT(item((quantized.values - weight).abs().max()), 0.2);
    EXPECT_TRUE(at::equal(torch::autograd::grad({quantized.values.sum()}, {weight})[0], at::ones_like(weight)));
    const LoweredWeight lowered = quantizer.lowered(quantized);
    if (const auto* book = std::get_if<ir::CodeBookWeight>(&lowered.description)) {
      EXPECT_TRUE(quantized.on_grid);
      EXPECT_EQ(book->tables, 4);
      EXPECT_EQ(book->levels.size(), 4U * 43);
      EXPECT_EQ(book->values[5], quantized.values.reshape(-1)[5].item<float>());
      continue;
    }
    EXPECT_FALSE(quantized.on_grid);
    const auto& pieces = std::get<ir::PiecewiseWeight>(lowered.description);
    for (size_t i = 0; i < pieces.region.size(); ++i) {
      const size_t at = pieces.region[i] * 4 + i / 27;
      const double magnitude = pieces.start[at] + pieces.step[at] * pieces.magnitude[i];
      EXPECT_NEAR((pieces.negative[i] != 0 ? -magnitude : magnitude) + pieces.constant[i / 27],
                  quantized.values.reshape(-1)[static_cast<int64_t>(i)].item<double>(), 1e-6);
    }
  }
  EXPECT_THROW(PwlqWeightQuantizer(4, {.breakpoints = 4}), Error);
  EXPECT_THROW(PwlqWeightQuantizer(4, {.representation = "table"}), Error);
  EXPECT_THROW(PwlqWeightQuantizer(8, {.representation = "code_book"}), Error);
}

TEST(PwlqActivationQuantizer, AveragesTheMediansOfItsBatches) {
  for (const bool asymmetric : {false, true}) {
    PwlqActivationQuantizer quantizer(8, {.top_k = 3, .asymmetric = asymmetric});
    const at::Tensor x = vector({-50.0, -1.0, -1.0, 0.5, 0.5, 0.5, 0.5, 1.0, 2.0, 100.0});
    quantizer.start_calibration();
    quantizer.forward(x);
    quantizer.forward(3.0 * x);
    quantizer.finish_calibration();  // [-2, 4]
    EXPECT_FLOAT_EQ(quantizer.grid().scale, asymmetric ? 6.0F / 255 : 4.0F / 127);
    EXPECT_EQ(quantizer.grid().zero_point, asymmetric ? 85 : 128);
    EXPECT_TRUE(at::equal(quantizer.decode(quantizer.encode(x)), quantizer.forward(x)));
    PwlqActivationQuantizer loaded(8, {.top_k = 3, .asymmetric = asymmetric});
    transfer(quantizer, loaded);
    EXPECT_EQ(loaded.grid(), quantizer.grid());
  }
}

}  // namespace
}  // namespace qstep::methods
