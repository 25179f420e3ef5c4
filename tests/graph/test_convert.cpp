// Networks written by hand in C++: calibrate, train, convert, save, load, compare.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <filesystem>
#include <sstream>

#include "qstep/qstep.h"

namespace {

namespace nn = qstep::nn;
using qstep::ir::Builder;
using qstep::ir::ValueId;

// A residual block, SiLU, concat and average pooling, grouped and dilated convolutions.
struct NetImpl : torch::nn::Module {
  explicit NetImpl(const qstep::QConfig& config) {
    input = register_module("input", nn::Quantize(config));
    stem = register_module(
        "stem", nn::Conv2d(nn::Conv2dOptions(3, 8, 3).padding(1).batch_norm(true).relu(true), config, input->output()));
    body = register_module(
        "body", nn::Conv2d(nn::Conv2dOptions(8, 8, 3).padding(2).dilation(2).groups(4).bias(false).batch_norm(true),
                           config, stem->output()));
    add = register_module("add", nn::Add(config, body->output(), stem->output(), true));
    narrow = register_module("narrow", nn::Conv2d(nn::Conv2dOptions(8, 4, 1).stride(1),
                                                  config.with_bits(config.weight_bits, 8), add->output()));
    silu = register_module("silu", nn::Elementwise("silu", config, narrow->output()));
    concat =
        register_module("concat", nn::Concat(config, std::vector<nn::QuantizerPtr>{add->output(), silu->output()}));
    pool = register_module("pool", nn::AdaptiveAvgPool2d(2, 2, config.with_bits(8, 8), concat->output(), false));
    fc = register_module("fc", nn::Linear(nn::LinearOptions(48, 5).last(true), config, pool->output()));
  }

  torch::Tensor forward(const torch::Tensor& x) {
    const torch::Tensor a = stem->forward(input->forward(x));
    const torch::Tensor sum = torch::max_pool2d(add->forward({body->forward(a), a}), 2);
    const torch::Tensor both = concat->forward({sum, silu->forward(narrow->forward(sum))});
    return fc->forward(pool->forward(both).flatten(1));
  }

  ValueId lower(Builder& b, ValueId x) {
    const ValueId a = stem->lower(b, "stem", {input->lower(b, "input", {x})});
    const ValueId sum = b.max_pool2d("max_pool", add->lower(b, "add", {body->lower(b, "body", {a}), a}),
                                     {.kernel = {2, 2}, .stride = {2, 2}}, false);
    const ValueId both = concat->lower(b, "concat", {sum, silu->lower(b, "silu", {narrow->lower(b, "narrow", {sum})})});
    return fc->lower(b, "fc", {b.reshape("flatten", pool->lower(b, "pool", {both}), {0, -1})});
  }

  nn::Quantize input{nullptr};
  nn::Conv2d stem{nullptr}, body{nullptr}, narrow{nullptr};
  nn::Add add{nullptr};
  nn::Elementwise silu{nullptr};
  nn::Concat concat{nullptr};
  nn::AdaptiveAvgPool2d pool{nullptr};
  nn::Linear fc{nullptr};
};
TORCH_MODULE(Net);

std::vector<std::pair<std::string, qstep::QConfig>> configs() {
  return {
      {"IAO W8A8", qstep::QConfig::iao()},
      {"IAO W8A8 per channel", qstep::QConfig::iao({.per_channel = true})},
      {"PWLQ W4A8", qstep::QConfig::pwlq()},
      {"PWLQ W4A8 code book", qstep::QConfig::pwlq({.weight = {.representation = "code_book"}})},
      {"LSQ W3A3", qstep::QConfig::lsq(3, 3, true)},
      {"LSQ+ W4A4", qstep::QConfig::lsq_plus()},
      {"PACT W4A4", qstep::QConfig::pact()},
      {"LSQ+ W2A2", qstep::QConfig::lsq_plus({.weight_bits = 2, .act_bits = 2, .activation = {.configuration = 3}})}};
}

torch::Tensor images(int64_t count, uint64_t seed) {
  torch::manual_seed(seed);
  return torch::randn({count, 3, 8, 8});
}

Net trained(const qstep::QConfig& config) {
  torch::manual_seed(1);
  Net net(config);
  qstep::calibrate(*net, [&](const torch::Tensor& x) { return net->forward(x); }, {images(8, 2), images(8, 3)});
  torch::optim::Adam optimizer(net->parameters(), torch::optim::AdamOptions(1e-3));
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    const torch::Tensor loss = net->forward(images(8, 10 + step)).square().mean();
    EXPECT_TRUE(std::isfinite(loss.item<double>()));
    loss.backward();
    for (const torch::Tensor& p : net->parameters())
      EXPECT_TRUE(!p.grad().defined() || torch::isfinite(p.grad()).all().item<bool>());
    optimizer.step();
  }
  return net;
}

TEST(Convert, GivesTheCodesOfTheModel) {
  for (const auto& [name, config] : configs()) {
    SCOPED_TRACE(name);
    Net net = trained(config);
    const auto forward = [&](const torch::Tensor& x) { return net->forward(x); };
    const auto integers = qstep::convert([&](Builder& b, ValueId x) { return net->lower(b, x); }, {1, 3, 8, 8});
    const qstep::Comparison result = qstep::compare(*net, forward, integers, images(4, 20));
    EXPECT_EQ(result.layers.size(), 9U);
    EXPECT_EQ(result.differing_codes(), 0);
    EXPECT_TRUE(net->is_training());

    const torch::NoGradGuard no_grad;
    const torch::Tensor x = images(4, 20);
    net->eval();
    const torch::Tensor expected = net->forward(x);
    const std::vector<qstep::engine::Input> inputs{{x.sizes().vec(), x.const_data_ptr<float>()}};
    const auto output = integers.run(inputs).at(0);
    const auto& values = std::get<std::vector<float>>(output.data);
    EXPECT_TRUE(torch::equal(torch::from_blob(const_cast<float*>(values.data()), output.shape), expected));
  }
}

TEST(Convert, EvalFollowsTheParameters) {
  Net net = trained(qstep::QConfig::lsq_plus());
  net->eval();
  const torch::NoGradGuard no_grad;
  const torch::Tensor before = net->forward(images(2, 5));
  net->body->weight.data().mul_(-1);  // .data(): no version counter moves
  EXPECT_FALSE(torch::equal(net->forward(images(2, 5)), before));
}

TEST(Convert, FindsAPlantedError) {
  Net net = trained(qstep::QConfig::lsq_plus());
  const auto integers = qstep::convert([&](Builder& b, ValueId x) { return net->lower(b, x); }, {1, 3, 8, 8});
  net->narrow->weight.data().select(0, 1).add_(0.5);
  const auto result = qstep::compare(
      *net, [&](const torch::Tensor& x) { return net->forward(x); }, integers, images(4, 20));
  for (const qstep::LayerComparison& layer : result.layers) {
    const bool later = layer.name != "input" && layer.name != "stem" && layer.name != "body" && layer.name != "add";
    EXPECT_EQ(layer.differing > 0, later) << layer.name;
  }
}

TEST(Archive, HoldsEverything) {
  for (const auto& [name, config] : configs()) {
    SCOPED_TRACE(name);
    Net net = trained(config);
    std::stringstream stream;
    torch::save(net, stream);
    Net fresh(config);
    torch::load(fresh, stream);
    net->eval();
    fresh->eval();
    const torch::NoGradGuard no_grad;
    EXPECT_TRUE(torch::equal(fresh->forward(images(3, 6)), net->forward(images(3, 6))));
  }
}

TEST(Phases, FrozenTrainingIsEvalWithGradients) {
  for (const auto& [name, config] : configs()) {
    SCOPED_TRACE(name);
    Net net = trained(config);
    net->stem->freeze_batch_norm();
    net->body->freeze_batch_norm();
    for (const auto& module : net->modules()) {
      if (auto* range = dynamic_cast<qstep::methods::IaoActivationQuantizer*>(module.get())) range->freeze();
    }
    const torch::Tensor trained_output = net->forward(images(3, 7));
    net->eval();
    EXPECT_TRUE(torch::equal(net->forward(images(3, 7)), trained_output));
  }
}

TEST(ParameterGroups, HoldEachParameterOnce) {
  Net net(qstep::QConfig::pact());
  const qstep::ParameterGroups groups = qstep::parameter_groups(*net);
  EXPECT_EQ(groups.weights.size(), 4U);
  EXPECT_EQ(groups.rest.size(), 7U);  // two batch norms, three biases
  EXPECT_EQ(groups.clipping_levels.size(), 8U);
  EXPECT_EQ(groups.scales.size(), 4U);  // of weights
  EXPECT_EQ(net->parameters().size(), 23U);
  for (const torch::Tensor& weight : groups.weights) EXPECT_GE(weight.dim(), 2);
  for (const torch::Tensor& level : groups.clipping_levels) EXPECT_EQ(level.dim(), 0);
}

// A residual block with a linear branch and average pooling over 9 taps.
struct FixedPointNetImpl : torch::nn::Module {
  explicit FixedPointNetImpl(const qstep::QConfig& config) {
    input = register_module("input", nn::Quantize(config));
    stem = register_module("stem", nn::Conv2d(nn::Conv2dOptions(3, 8, 3).padding(1).batch_norm(true).relu6(true),
                                              config, input->output()));
    body = register_module("body",
                           nn::Conv2d(nn::Conv2dOptions(8, 8, 3).padding(1).batch_norm(true), config, stem->output()));
    add = register_module("add", nn::Add(config, body->output(), stem->output(), true));
    pool = register_module("pool", nn::AvgPool2d(3, config, add->output()));
    fc = register_module("fc", nn::Linear(nn::LinearOptions(32, 5).last(true), config, pool->output()));
  }

  torch::Tensor forward(const torch::Tensor& x) {
    const torch::Tensor a = stem->forward(input->forward(x));
    return fc->forward(pool->forward(add->forward({body->forward(a), a})).flatten(1));
  }

  ValueId lower(Builder& b, ValueId x) {
    const ValueId a = stem->lower(b, "stem", {input->lower(b, "input", {x})});
    const ValueId sum = add->lower(b, "add", {body->lower(b, "body", {a}), a});
    return fc->lower(b, "fc", {b.reshape("flatten", pool->lower(b, "pool", {sum}), {0, -1})});
  }

  nn::Quantize input{nullptr};
  nn::Conv2d stem{nullptr}, body{nullptr};
  nn::Add add{nullptr};
  nn::AvgPool2d pool{nullptr};
  nn::Linear fc{nullptr};
};
TORCH_MODULE(FixedPointNet);

/// eta = 2^(FL + range exponent) * alpha / levels, twice that for a signed tensor among unsigned ones.
void expect_eta_of_its_level(const qstep::methods::ActivationQuantizer& quantizer, int levels) {
  const auto buffers = quantizer.named_buffers();
  const int exponent = buffers["fraction_length"].item<int>() + buffers["range_exponent"].item<int>();
  const auto& f8net = dynamic_cast<const qstep::methods::F8NetActivationQuantizer&>(quantizer);
  const double alpha = f8net.alpha()->item<double>();
  const double expected = std::ldexp(alpha / levels, exponent + (quantizer.quant_min() < 0 ? 1 : 0));
  EXPECT_FLOAT_EQ(static_cast<float>(quantizer.eta()->item<double>()), static_cast<float>(expected));
}

class F8Net : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(PrivateRange, F8Net, testing::Bool());

TEST_P(F8Net, EvalAndFrozenTrainingAreTheIntegerNetwork) {
  const qstep::QConfig config = qstep::QConfig::f8net({.activation = {.private_range = GetParam()}});
  torch::manual_seed(1);
  FixedPointNet net(config);
  {
    const torch::NoGradGuard no_grad;
    net->body->norm_weight.mul_(20);
  }
  int64_t alphas = 0;
  for (const auto& parameter : net->named_parameters()) alphas += parameter.key().find("alpha") != std::string::npos;
  EXPECT_EQ(alphas, 1);  // stem, body and add are one chain; the pool follows it; input and output hold real values
  const auto forward = [&](const torch::Tensor& x) { return net->forward(x); };
  qstep::calibrate(*net, forward, {images(8, 2)});
  bool is_shared = true;
  for (const auto& buffer : net->named_buffers()) {
    if (buffer.key().ends_with("range_exponent")) is_shared = is_shared && buffer.value().item<int>() == 0;
  }
  EXPECT_NE(is_shared, GetParam());
  for (const auto& quantizer : {net->stem->output(), net->body->output(), net->add->output()}) {
    expect_eta_of_its_level(*quantizer, 255);  // the chain has unsigned members
    const auto ratio = quantizer->ratio_to(*net->stem->output());
    ASSERT_TRUE(ratio.has_value());
    EXPECT_EQ(ratio->item<double>() * net->stem->output()->eta()->item<double>(), quantizer->eta()->item<double>());
  }
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(1e-2));
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    net->forward(images(8, 10 + step)).square().mean().backward();
    for (const torch::Tensor& p : net->parameters())
      EXPECT_TRUE(p.grad().defined() && torch::isfinite(p.grad()).all().item<bool>());
    optimizer.step();
  }
  const auto integers =
      qstep::convert([&](Builder& b, ValueId x) { return net->lower(b, x); }, {1, 3, 8, 8}, config.requantization);
  EXPECT_EQ(qstep::compare(*net, forward, integers, images(4, 20)).differing_codes(), 0);
  net->stem->freeze_batch_norm();
  net->body->freeze_batch_norm();
  for (const auto& module : net->modules()) {
    if (auto* quantizer = dynamic_cast<qstep::methods::F8NetActivationQuantizer*>(module.get())) quantizer->freeze();
  }
  const torch::Tensor frozen = net->forward(images(4, 21));
  net->eval();
  const torch::NoGradGuard no_grad;
  EXPECT_TRUE(torch::equal(net->forward(images(4, 21)), frozen));
}

template <class Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const qstep::Error& error) {
    return error.what();
  }
  return "no qstep::Error";
}

TEST(BadInput, IsNamed) {
  const auto has = [](const std::string& message, const std::string& part) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  const qstep::QConfig config = qstep::QConfig::lsq_plus();
  Net net(config);
  has(message_of([&] { net->forward(images(2, 1)); }), "missing calibration");
  has(message_of([&] { qstep::calibrate(*net, [&](const torch::Tensor& x) { return net->forward(x); }, {}); }),
      "no batch");
  has(message_of([&] {
        qstep::calibrate(*net, [&](const torch::Tensor& x) { return net->forward(x); }, {images(2, 1) * NAN});
      }),
      "must be finite");
  has(message_of([&] { nn::Conv2d(nn::Conv2dOptions(6, 8, 3).groups(4), config, net->input->output()); }),
      "groups must divide");
  has(message_of([&] { nn::Quantize(config.with_bits(4, 9)); }), "bit_width must be in [2, 8], got 9");
  has(message_of([&] { nn::Linear(nn::LinearOptions(5, 5), config, net->fc->output()); }), "no quantizer");
  const qstep::QConfig f8net = qstep::QConfig::f8net();
  has(message_of([&] { nn::AdaptiveAvgPool2d(1, 1, f8net, nn::Quantize(f8net)->output()); }), "use AvgPool2d");
  has(message_of([&] { nn::Quantize(f8net.with_bits(8, 4)); }), "defined for 8 bits only, got 4");
  has(message_of([&] { nn::Concat(f8net, std::vector<nn::QuantizerPtr>{nn::Quantize(f8net)->output()}); }),
      "not defined");
  has(message_of([&] { nn::Elementwise("cube", config, net->input->output()); }), "unknown function 'cube'");
  for (const int64_t bits : {-1, 0, 1, 64, 65}) {
    for (const auto& [name, any] : configs()) {
      has(message_of([&, &any = any] { nn::Quantize(any.with_bits(bits, bits)); }), "bit_width must be in");
    }
  }
  for (const int64_t bits : {-1, 0, 1, 9, 64, 65}) {
    using namespace qstep::methods;
    has(message_of([&] { IaoWeightQuantizer{bits, false}; }), "bit_width must be in");
    has(message_of([&] { LsqPlusWeightQuantizer(bits, {4}); }), "bit_width must be in");
    has(message_of([&] { InqWeightQuantizer(bits, {4}); }), "bit_width must be in");
    has(message_of([&] { PwlqWeightQuantizer{bits}; }), "bit_width must be in");
    has(message_of([&] { F8NetWeightQuantizer(bits, {.format = "grid"}); }), "bit_width must be in");
  }
  const auto f8net_level = [](qstep::methods::AlphaInit level) {
    return qstep::QConfig::f8net({.activation = {.alpha_init = std::move(level)}});
  };
  has(message_of([&] { nn::Quantize{f8net_level(INFINITY)}; }), "alpha_init must be above 0 and finite");
  has(message_of([&] { nn::Quantize{f8net_level("best")}; }), "'mse' or 'max', got 'best'");
  qstep::methods::F8NetWeightQuantizer fixed_point(8);
  for (const torch::Tensor& weight : {torch::full({1}, 5.0), torch::full({4}, 0.5), 5 + 1e-3 * torch::randn({50})}) {
    has(message_of([&] { fixed_point.initialize(weight); }), "use 'grid'");
  }
  fixed_point.initialize(torch::zeros({4}));
  for (const auto& [name, any] : configs()) {
    SCOPED_TRACE(name);
    Net broken(any);
    {
      const torch::NoGradGuard no_grad;
      broken->stem->weight[0][0][0][0] = NAN;
    }
    has(message_of([&, &broken = broken] {
          qstep::calibrate(*broken, [&](const torch::Tensor& x) { return broken->forward(x); }, {images(2, 1)});
        }),
        "weights must be finite");
  }
  Net other = trained(config);
  has(message_of([&] {
        const torch::NoGradGuard no_grad;
        other->eval();
        other->forward(images(2, 1) * NAN);
      }),
      "NaN");
}

}  // namespace
