// Each invariant of ir/graph.h is broken on its own, and the error must name the place.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include "ir/expect_error.h"
#include "ir/random_graph.h"
#include "ir/sample_graph.h"

namespace qstep::test {
namespace {

using namespace qstep::ir;

TEST(Validate, TakesTheSampleAndRandomGraphs) {
  EXPECT_NO_THROW(validate(sample_graph()));
  for (uint64_t seed = 0; seed < 300; ++seed) {
    std::mt19937_64 random(seed);
    const Graph graph = random_graph(random, 15);
    EXPECT_NO_THROW(validate(graph)) << "seed " << seed;
  }
}

struct Break {
  const char* field;  // part of the message, as is `where`
  const char* where;
  std::function<void(Graph&)> change;
};

void expect_each_named(const std::vector<Break>& breaks, const Graph& whole = sample_graph()) {
  for (const Break& b : breaks) {
    SCOPED_TRACE(fmt::format("{} {}", b.where, b.field));
    Graph graph = whole;
    b.change(graph);
    expect_error([&] { validate(graph); }, b.field, b.where);
  }
}

const double infinity = std::numeric_limits<double>::infinity();

TEST(Validate, NamesTheGraphsField) {
  expect_each_named({
      {"policy", "graph", [](Graph& g) { g.policy = static_cast<RequantPolicy>(3); }},
      {"inputs must not be empty", "graph", [](Graph& g) { g.inputs.clear(); }},
      {"inputs: must name a value", "graph", [](Graph& g) { g.inputs = {99}; }},
      {"inputs: must name a value", "graph", [](Graph& g) { g.inputs = {-1}; }},
      {"listed twice", "'image'",
       [](Graph& g) {
         g.inputs = {0, 0};
       }},
      {"must be real or codes", "'linear'", [](Graph& g) { g.inputs.push_back(value_id(g, "linear")); }},
      {"outputs must not be empty", "graph", [](Graph& g) { g.outputs.clear(); }},
      {"outputs: must name a value", "graph", [](Graph& g) { g.outputs = {99}; }},
      {"listed twice", "'logits'", [](Graph& g) { g.outputs.push_back(g.outputs[0]); }},
      {"must be made by a node", "'image'", [](Graph& g) { g.outputs = {0}; }},
      {"neither an input nor made by a node", "'orphan'", [](Graph& g) { g.values.push_back({.name = "orphan"}); }},
      {"must be unique", "'image'", [](Graph& g) { g.values[1].name = "image"; }},
  });
}

TEST(Validate, NamesTheValuesField) {
  const auto scale = [](float s) { return [s](Graph& g) { value(g, "conv2d").grid.scale = s; }; };
  expect_each_named({
      {"name must have", "value", [](Graph& g) { g.values[1].name.clear(); }},
      {"name must have", "value", [](Graph& g) { g.values[1].name.assign(5000, 'x'); }},
      {"scale must be finite and positive", "'conv2d'", scale(0)},
      {"scale must be finite and positive", "'conv2d'", scale(-1)},
      {"scale must be finite and positive", "'conv2d'", scale(static_cast<float>(infinity))},
      {"scale must be finite and positive", "'conv2d'", scale(std::nanf(""))},
      {"offset must be finite", "'conv2d'", [](Graph& g) { value(g, "conv2d").grid.offset = std::nanf(""); }},
      {"quant_min must be 0", "'conv2d'", [](Graph& g) { value(g, "conv2d").grid.quant_min = -1; }},
      {"quant_max must be in [1, 255]", "'conv2d'", [](Graph& g) { value(g, "conv2d").grid.quant_max = 0; }},
      {"quant_max must be in [1, 255]", "'conv2d'", [](Graph& g) { value(g, "conv2d").grid.quant_max = 256; }},
      {"zero_point must be in [0, quant_max]", "'conv2d'", [](Graph& g) { value(g, "conv2d").grid.zero_point = 16; }},
      {"zero_point must be in [0, quant_max]", "'conv2d'", [](Graph& g) { value(g, "conv2d").grid.zero_point = -1; }},
      {"scales must be finite", "'linear'", [](Graph& g) { value(g, "linear").scales[1] = infinity; }},
      {"scales belong to accumulators", "'conv2d'", [](Graph& g) { value(g, "conv2d").scales = {1}; }},
      {"sizes must be >= 0", "'image'",
       [](Graph& g) {
         g.values[0].shape = {1, -3};
       }},
      {"at most 2^40 elements", "'image'",
       [](Graph& g) {
         g.values[0].shape = {int64_t{1} << 30, int64_t{1} << 30, 16};
       }},
      {"at most 8 dimensions", "'image'", [](Graph& g) { g.values[0].shape.assign(9, 1); }},
      {"kind must be", "'conv2d'", [](Graph& g) { value(g, "conv2d").kind = static_cast<ValueKind>(7); }},
  });
}

TEST(Validate, NamesWrongReferences) {
  expect_each_named({
      {"inputs: must name a value", "'conv2d'", [](Graph& g) { node(g, "conv2d").inputs = {99}; }},
      {"inputs: must name a value", "'conv2d'", [](Graph& g) { node(g, "conv2d").inputs = {no_value}; }},
      {"output: must name a value", "'conv2d'", [](Graph& g) { node(g, "conv2d").output = 99; }},
      {"must have the node's name", "'conv2d'", [](Graph& g) { node(g, "conv2d").output = 0; }},
      {"must have the node's name", "'other'", [](Graph& g) { node(g, "conv2d").name = "other"; }},
      {"must be made by an earlier node", "'conv2d'",
       [](Graph& g) { node(g, "conv2d").inputs = {value_id(g, "slice")}; }},
      {"must be made by an earlier node", "'conv2d'",
       [](Graph& g) { node(g, "conv2d").inputs = {value_id(g, "conv2d")}; }},
      {"already made", "'quantize'", [](Graph& g) { g.nodes.insert(g.nodes.begin(), g.nodes[0]); }},
      {"inputs must be 1 values, got 2", "'conv2d'", [](Graph& g) { node(g, "conv2d").inputs.push_back(1); }},
      {"inputs must be 2 values, got 1", "'bilinear'", [](Graph& g) { node(g, "bilinear").inputs.pop_back(); }},
      {"inputs must not be empty", "'concat'", [](Graph& g) { node(g, "concat").inputs.clear(); }},
      {"input 'image' must be codes", "'conv2d'", [](Graph& g) { node(g, "conv2d").inputs = {0}; }},
      {"input 'quantize' must be real", "'again'",
       [](Graph& g) {
         g.values.push_back({.name = "again"});
         g.nodes.push_back({"again", Quantize{}, {value_id(g, "quantize")}, value_id(g, "again")});
       }},
  });
}

TEST(Validate, NamesTheLayersField) {
  const auto conv = [](auto change) { return [change](Graph& g) { change(operation<Conv2d>(g, "conv2d")); }; };
  const auto linear = [](auto change) { return [change](Graph& g) { change(operation<Linear>(g, "linear")); }; };
  const auto under = [](RequantPolicy policy, Multiplier m) {
    return [policy, m](Graph& g) {
      g.policy = policy;
      operation<Conv2d>(g, "conv2d").requantize.multipliers.assign(4, m);
    };
  };
  expect_each_named({
      {"window.kernel", "'conv2d' (conv2d)", conv([](Conv2d& c) { c.window.kernel[1] = 0; })},
      {"window.kernel must equal", "'conv2d'", conv([](Conv2d& c) { c.window.kernel[1] = 2; })},
      {"window.stride", "'conv2d'", conv([](Conv2d& c) { c.window.stride[0] = 0; })},
      {"window.padding", "'conv2d'", conv([](Conv2d& c) { c.window.padding[3] = -1; })},
      {"window.padding", "'conv2d'", conv([](Conv2d& c) { c.window.padding[3] = 1 << 20; })},
      {"window.dilation", "'conv2d'", conv([](Conv2d& c) { c.window.dilation[0] = 0; })},
      {"groups", "'conv2d'", conv([](Conv2d& c) { c.groups = 0; })},
      {"groups must divide", "'conv2d'", conv([](Conv2d& c) { c.groups = 3; })},
      {"weight.shape must have 4", "'conv2d'", conv([](Conv2d& c) {
         c.weight.shape = {4, 27};
       })},
      {"weight.shape must be positive", "'conv2d'", conv([](Conv2d& c) { c.weight.shape[1] = 0; })},
      {"weight.shape", "'conv2d'", conv([](Conv2d& c) { c.weight.shape[1] = int64_t{1} << 62; })},
      {"weight.bit_width must be in [2, 8]", "'conv2d'", conv([](Conv2d& c) { c.weight.bit_width = 1; })},
      {"weight.bit_width must be in [2, 8]", "'conv2d'", conv([](Conv2d& c) { c.weight.bit_width = 9; })},
      {"weight.codes must have", "'conv2d'", conv([](Conv2d& c) { c.weight.codes.pop_back(); })},
      {"weight.codes must be in [-8, 7]", "'conv2d'", conv([](Conv2d& c) { c.weight.codes[5] = 8; })},
      {"weight.codes must be in [0, 15]", "'conv2d'",
       conv([](Conv2d& c) { c.weight.encoding = UniformEncoding{.is_signed = false}; })},
      {"weight.zero_point must be in [-8, 7]", "'conv2d'",
       conv([](Conv2d& c) { c.weight.encoding = UniformEncoding{.zero_point = 8}; })},
      {"bias must have 4", "'conv2d'", conv([](Conv2d& c) { c.bias.pop_back(); })},
      {"requantize.multipliers must have 1 or 4", "'conv2d'",
       conv([](Conv2d& c) { c.requantize.multipliers.pop_back(); })},
      {"output 'conv2d' must be accumulators", "'conv2d'", conv([](Conv2d& c) { c.requantize.multipliers.clear(); })},
      {"clamp_max must be in [0, 15]", "'conv2d'", conv([](Conv2d& c) { c.requantize.clamp_max = 16; })},
      {"clamp_min must be in [0, 15]", "'conv2d'", conv([](Conv2d& c) { c.requantize.clamp_min = 16; })},
      {"multiplier| must be 0 or in [2^23, 2^24)", "'conv2d'", under(RequantPolicy::exact, {1 << 24, 3})},
      {"multiplier| must be 0 or in [2^23, 2^24)", "'conv2d'", under(RequantPolicy::exact, {-(1 << 22), 3})},
      {"shift must be in [0, 62]", "'conv2d'", under(RequantPolicy::exact, {1 << 23, 63})},
      {"shift must be in [0, 62]", "'conv2d'", under(RequantPolicy::exact, {1 << 23, -1})},
      {"multiplier| must be 0 or in [2^30, 2^31)", "'conv2d'", under(RequantPolicy::gemmlowp, {1 << 23, 3})},
      {"multiplier| must be 0 or in [2^30, 2^31)", "'conv2d'", under(RequantPolicy::gemmlowp, {INT32_MIN, 3})},
      {"shift must be in [-31, 30]", "'conv2d'", under(RequantPolicy::gemmlowp, {1 << 30, 31})},
      {"multiplier must be 1", "'conv2d'", under(RequantPolicy::shift, {2, 3})},
      {"shift must be in [-31, 62]", "'conv2d'", under(RequantPolicy::shift, {1, -32})},
      {"weight.shape must have 2", "'linear'", linear([](Linear& l) {
         l.weight.shape = {5, 64, 1, 1};
       })},
      {"output 'linear' must be codes", "'linear'", linear([](Linear& l) {
         l.requantize.multipliers = {{1 << 23, 3}};
       })},
      {"clamp_min and clamp_max must be 0 and 255", "'linear'", linear([](Linear& l) { l.requantize.clamp_min = 3; })},
      {"scales must have 5", "'linear'", [](Graph& g) { value(g, "linear").scales.pop_back(); }},
  });
}

// The convolution of the sample with weights of another encoding; `change` breaks one thing in it.
std::function<void(Graph&)> encoded(WeightEncoding encoding, int32_t bit_width, int16_t code,
                                    std::function<void(Graph&, Conv2d&)> change) {
  return [=](Graph& graph) {
    Conv2d& conv = operation<Conv2d>(graph, "conv2d");
    conv.weight.encoding = encoding;
    conv.weight.bit_width = bit_width;
    std::fill(conv.weight.codes.begin(), conv.weight.codes.end(), code);
    if (std::holds_alternative<PiecewiseEncoding>(encoding)) {
      conv.bias.clear();
      conv.requantize.multipliers.clear();
    }
    EXPECT_NO_THROW(validate(graph));
    change(graph, conv);
  };
}

std::function<void(Graph&)> power(std::function<void(Weight&)> change) {
  return encoded(PowerOfTwoEncoding{}, 4, -8, [=](Graph&, Conv2d& c) { change(c.weight); });
}

std::function<void(Graph&)> book(std::function<void(Weight&, CodeBookEncoding&)> change) {
  return encoded(CodeBookEncoding{3, {-5, 0, 300}}, 2, 300,
                 [=](Graph&, Conv2d& c) { change(c.weight, std::get<CodeBookEncoding>(c.weight.encoding)); });
}

// Two regions of 3 bits and constants: four sums.
std::function<void(Graph&)> pieces(std::function<void(Graph&, Conv2d&, PiecewiseEncoding&)> change) {
  const PiecewiseEncoding encoding{.has_constant = true,
                                   .multipliers = std::vector<int32_t>(16, 1 << 20),
                                   .constants = std::vector<int64_t>(4, -7),
                                   .shifts = std::vector<int8_t>(4, 30)};
  return encoded(encoding, 3, 0b1'1'11,
                 [=](Graph& g, Conv2d& c) { change(g, c, std::get<PiecewiseEncoding>(c.weight.encoding)); });
}

TEST(Validate, NamesTheEncodingsField) {
  using P = PiecewiseEncoding;
  expect_each_named({
      {"weight.bit_width must be in [2, 5]", "'conv2d'", power([](Weight& w) { w.bit_width = 6; })},
      {"power of two up to +-8, got 16", "'conv2d'", power([](Weight& w) { w.codes[3] = 16; })},
      {"power of two up to +-8, got -3", "'conv2d'", power([](Weight& w) { w.codes[3] = -3; })},
      {"power of two up to +-2, got -8", "'conv2d'", power([](Weight& w) { w.bit_width = 3; })},
      {"weight.bit_width must be in [1, 8]", "'conv2d'", book([](Weight& w, auto&) { w.bit_width = 9; })},
      {"weight.entries must be in [2, 4]", "'conv2d'", book([](Weight&, auto& b) { b.entries = 5; })},
      {"weight.entries must be in [2, 4]", "'conv2d'", book([](Weight&, auto& b) { b.entries = 0; })},
      {"1 or 4 tables of 3", "'conv2d'", book([](Weight&, auto& b) { b.levels.push_back(400); })},
      {"1 or 4 tables of 3", "'conv2d'", book([](Weight&, auto& b) { b.levels.clear(); })},
      {"must ascend", "'conv2d'", book([](Weight&, auto& b) { b.levels[1] = -5; })},
      {"channel 2 must be in its table, got 1", "'conv2d'", book([](Weight& w, auto&) { w.codes[60] = 1; })},
      {"weight.bit_width must be in [2, 8]", "'conv2d'", pieces([](Graph&, Conv2d& c, P&) { c.weight.bit_width = 1; })},
      {"weight.regions must be in [2, 4]", "'conv2d'", pieces([](Graph&, Conv2d&, P& p) { p.regions = 1; })},
      {"weight.codes must be in [0, 15]", "'conv2d'", pieces([](Graph&, Conv2d& c, P&) { c.weight.codes[0] = 16; })},
      {"must not be 4: a zero of region 0 has no sign", "'conv2d'",
       pieces([](Graph&, Conv2d& c, P&) { c.weight.codes[0] = 4; })},
      {"need the policy exact", "'conv2d'", pieces([](Graph& g, Conv2d&, P&) { g.policy = RequantPolicy::gemmlowp; })},
      {"take no bias", "'conv2d'", pieces([](Graph&, Conv2d& c, P&) { c.bias.assign(4, 0); })},
      {"no requantize.multipliers", "'conv2d'",
       pieces([](Graph&, Conv2d& c, P&) { c.requantize.multipliers.resize(1); })},
      {"weight.multipliers must have 16", "'conv2d'", pieces([](Graph&, Conv2d&, P& p) { p.multipliers.pop_back(); })},
      {"weight.multipliers must have 12", "'conv2d'", pieces([](Graph&, Conv2d&, P& p) { p.has_constant = false; })},
      {"weight.constants must have 4", "'conv2d'", pieces([](Graph&, Conv2d&, P& p) { p.constants.clear(); })},
      {"weight.shifts must have 4", "'conv2d'", pieces([](Graph&, Conv2d&, P& p) { p.shifts.push_back(0); })},
      {"weight.shifts must be in [0, 62]", "'conv2d'", pieces([](Graph&, Conv2d&, P& p) { p.shifts[1] = 63; })},
      {"weight.shifts must be in [0, 62]", "'conv2d'", pieces([](Graph&, Conv2d&, P& p) { p.shifts[1] = -1; })},
      {"multipliers| must be below 2^31", "'conv2d'",
       pieces([](Graph&, Conv2d&, P& p) { p.multipliers[5] = INT32_MIN; })},
      {"channel 1 below 2^62", "'conv2d'", pieces([](Graph&, Conv2d&, P& p) { p.constants[1] = -(int64_t{1} << 62); })},
      {"clamp_max must be in [0, 15]", "'conv2d'", pieces([](Graph&, Conv2d& c, P&) { c.requantize.clamp_max = 16; })},
  });
}

TEST(Validate, ProvesThatPiecewiseAccumulatorsFit) {
  Graph graph = sample_graph();
  Linear& linear = operation<Linear>(graph, "linear");
  linear.bias.clear();
  linear.weight.bit_width = 3;
  std::fill(linear.weight.codes.begin(), linear.weight.codes.end(), int16_t{0b1'1'11});
  PiecewiseEncoding encoding{.multipliers = std::vector<int32_t>(15, 0),
                             .constants = std::vector<int64_t>(5, 0),
                             .shifts = std::vector<int8_t>(5, 0)};
  // Channel 0: 96 weights, sums up to 96 * 3 * 12 = 3456 and 1152; the result is below 2^31 with the rounding.
  encoding.multipliers[5] = 600000;  // of the magnitudes of region 1
  encoding.constants[0] = INT32_MAX - 1 - int64_t{3456} * 600000;
  linear.weight.encoding = encoding;
  EXPECT_NO_THROW(validate(graph));
  encoding.constants[0] += 1;
  linear.weight.encoding = encoding;
  expect_error([&] { validate(graph); }, "'linear'", "accumulator of channel 0 below 2^31");
  encoding.shifts[0] = 1;
  linear.weight.encoding = encoding;
  EXPECT_NO_THROW(validate(graph));
}

TEST(Validate, NamesWhatMultipliesUnderTheShiftPolicy) {
  Graph whole = sample_graph();
  whole.policy = RequantPolicy::shift;
  operation<Conv2d>(whole, "conv2d").requantize.multipliers = {{1, 7}};
  operation<Bilinear>(whole, "bilinear") = {.left = 2, .right = 1 << 22, .shift = 62, .clamp_max = 15};
  AvgPool2d& average = operation<AvgPool2d>(whole, "avg_pool2d");
  average = {.window = average.window, .divisor_override = 4, .multiplier = 2, .shift = 3, .clamp_max = 15};
  value(whole, "linear").scales = {0.5, 0.25, 1, 2, 0x1p-40};
  EXPECT_NO_THROW(validate(whole));

  const auto bilinear = [](auto change) { return [change](Graph& g) { change(operation<Bilinear>(g, "bilinear")); }; };
  const auto pool = [](auto change) { return [change](Graph& g) { change(operation<AvgPool2d>(g, "avg_pool2d")); }; };
  expect_each_named(
      {
          {"scale must be a power of two", "'quantize'", [](Graph& g) { value(g, "quantize").grid.scale = 0.3F; }},
          {"offset must be 0", "'quantize'", [](Graph& g) { value(g, "quantize").grid.offset = 0.5F; }},
          {"scales must be powers of two", "'linear'", [](Graph& g) { value(g, "linear").scales[2] = 3; }},
          {"scales must be powers of two", "'linear'", [](Graph& g) { value(g, "linear").scales[2] = -1; }},
          {"scales must be powers of two", "'linear'", [](Graph& g) { value(g, "linear").scales[2] = 0; }},
          {"multiplier must be 1", "'conv2d'",
           [](Graph& g) { operation<Conv2d>(g, "conv2d").requantize.multipliers[0].multiplier = 2; }},
          {"operation must be add", "'bilinear'",
           bilinear([](Bilinear& b) { b.operation = Bilinear::Operation::multiply; })},
          {"left must be a power of two", "'bilinear'", bilinear([](Bilinear& b) { b.left = 3; })},
          {"left must be a power of two", "'bilinear'", bilinear([](Bilinear& b) { b.left = 1 << 23; })},
          {"right must be a power of two", "'bilinear'", bilinear([](Bilinear& b) { b.right = -1; })},
          {"right must be a power of two", "'bilinear'", bilinear([](Bilinear& b) { b.right = 0; })},
          {"constant must be 0", "'bilinear'", bilinear([](Bilinear& b) { b.constant = 1; })},
          {"multiplier must be a power of two", "'avg_pool2d'", pool([](AvgPool2d& p) { p.multiplier = 3; })},
          {"multiplier must be a power of two", "'avg_pool2d'", pool([](AvgPool2d& p) { p.multiplier = -2; })},
          {"divisor_override must be a power of two", "'avg_pool2d'",
           pool([](AvgPool2d& p) { p.divisor_override = 0; })},
          {"divisor_override must be a power of two", "'avg_pool2d'",
           pool([](AvgPool2d& p) { p.divisor_override = 9; })},
          {"constant must be 0", "'avg_pool2d'", pool([](AvgPool2d& p) { p.constant = -1; })},
          {"tap_constant must be 0", "'avg_pool2d'", pool([](AvgPool2d& p) { p.tap_constant = 1; })},
      },
      whole);
}

// 127 * 15 * 2^20 exceeds int32 by far; the bound is on the real weights, so smaller weights of the same shape pass.
TEST(Validate, ProvesThatNoAccumulatorOverflows) {
  Graph graph = sample_graph();
  Linear& linear = operation<Linear>(graph, "linear");
  value(graph, "linear").scales.resize(1);
  linear.bias.resize(1);
  linear.weight = {.shape = {1, 1 << 21}, .bit_width = 8, .codes = std::vector<int16_t>(1 << 21, 0)};
  // Codes lie within 12 of zero_code 3: 85 * 12 * 2^21 = 2139095040 < 2^31 = 2147483648, 86 * 12 * 2^21 is more.
  std::fill(linear.weight.codes.begin(), linear.weight.codes.end(), int16_t{85});
  EXPECT_NO_THROW(validate(graph));
  linear.bias[0] = 8388607;  // 2139095040 + 8388607 = 2^31 - 1
  EXPECT_NO_THROW(validate(graph));
  linear.bias[0] = 8388608;
  expect_error([&] { validate(graph); }, "'linear'", "below 2^31", "channel 0", "2147483648");
  linear.bias[0] = -8388608;
  expect_error([&] { validate(graph); }, "below 2^31");
  linear.bias[0] = 0;
  std::fill(linear.weight.codes.begin(), linear.weight.codes.end(), int16_t{-86});
  expect_error([&] { validate(graph); }, "below 2^31");
  linear.weight.encoding = UniformEncoding{.zero_point = -86};
  EXPECT_NO_THROW(validate(graph));
}

TEST(Validate, NamesTheOtherNodesField) {
  const auto bilinear = [](auto change) { return [change](Graph& g) { change(operation<Bilinear>(g, "bilinear")); }; };
  const auto max_pool = [](auto change) {
    return [change](Graph& g) { change(operation<MaxPool2d>(g, "max_pool2d").window); };
  };
  const auto avg_pool = [](auto change) {
    return [change](Graph& g) { change(operation<AvgPool2d>(g, "avg_pool2d")); };
  };
  const auto other_grid = [](const char* name) { return [name](Graph& g) { value(g, name).grid.scale *= 2; }; };
  expect_each_named({
      {"operation must name", "'bilinear'",
       bilinear([](Bilinear& b) { b.operation = static_cast<Bilinear::Operation>(2); })},
      {"product must be 0", "'bilinear'", bilinear([](Bilinear& b) { b.product = 1; })},
      {"|product| must be below 2^36", "'bilinear'",
       bilinear([](Bilinear& b) { b.operation = Bilinear::Operation::multiply, b.product = int64_t{1} << 36; })},
      {"|left| must be below 2^46", "'bilinear'", bilinear([](Bilinear& b) { b.left = -(int64_t{1} << 46); })},
      {"|right| must be below 2^46", "'bilinear'", bilinear([](Bilinear& b) { b.right = INT64_MIN; })},
      {"|constant| must be below 2^53", "'bilinear'", bilinear([](Bilinear& b) { b.constant = int64_t{1} << 53; })},
      {"sum below 2^53", "'bilinear'", bilinear([](Bilinear& b) { b.constant = (int64_t{1} << 53) - 1; })},
      {"shift must be in [0, 62]", "'bilinear'", bilinear([](Bilinear& b) { b.shift = 63; })},
      {"clamp_max", "'bilinear'", bilinear([](Bilinear& b) { b.clamp_max = 255; })},
      {"table must have 16", "'lookup'", [](Graph& g) { operation<Lookup>(g, "lookup").table.pop_back(); }},
      {"table must be in [0, 15]", "'lookup'", [](Graph& g) { operation<Lookup>(g, "lookup").table[3] = 16; }},
      {"function must have at most", "'lookup'",
       [](Graph& g) { operation<Lookup>(g, "lookup").function.assign(2000, 'f'); }},
      {"window.padding must be in [0, 1]", "'max_pool2d'", max_pool([](Window& w) { w.padding[2] = 2; })},
      {"window.kernel", "'max_pool2d'", max_pool([](Window& w) { w.kernel[0] = 0; })},
      {"on the grid of the output", "'max_pool2d'", other_grid("max_pool2d")},
      {"|multiplier| must be below 2^24", "'avg_pool2d'", avg_pool([](AvgPool2d& p) { p.multiplier = 1 << 24; })},
      {"shift must be in [0, 62]", "'avg_pool2d'", avg_pool([](AvgPool2d& p) { p.shift = -1; })},
      {"at most 2^62", "'avg_pool2d'", avg_pool([](AvgPool2d& p) { p.shift = 61; })},
      {"below 2^62", "'avg_pool2d'", avg_pool([](AvgPool2d& p) { p.constant = INT64_MIN; })},
      {"divisor_override must be in [0,", "'avg_pool2d'", avg_pool([](AvgPool2d& p) { p.divisor_override = -1; })},
      {"tap_constant must be 0", "'avg_pool2d'", avg_pool([](AvgPool2d& p) { p.tap_constant = 1; })},
      {"at most 2^62", "'avg_pool2d'", avg_pool([](AvgPool2d& p) { p.divisor_override = 3, p.shift = 61; })},
      {"below 2^62", "'avg_pool2d'",
       avg_pool([](AvgPool2d& p) { p.divisor_override = 1, p.tap_constant = int64_t{1} << 60; })},
      {"window.dilation must be in [1, 1]", "'avg_pool2d'", avg_pool([](AvgPool2d& p) { p.window.dilation[0] = 2; })},
      {"window.padding", "'avg_pool2d'", avg_pool([](AvgPool2d& p) { p.window.padding[0] = 2; })},
      {"output_size", "'avg_pool2d'", avg_pool([](AvgPool2d& p) { p.adaptive = true, p.output_size[0] = -1; })},
      {"clamp_min", "'avg_pool2d'", avg_pool([](AvgPool2d& p) { p.clamp_min = -1; })},
      {"on the grid of the output", "'concat'", other_grid("lookup")},
      {"axis", "'concat'", [](Graph& g) { operation<Concat>(g, "concat").axis = -1; }},
      {"axis", "'slice'", [](Graph& g) { operation<Slice>(g, "slice").axis = 8; }},
      {"start", "'slice'", [](Graph& g) { operation<Slice>(g, "slice").start = -1; }},
      {"stop must be in", "'slice'", [](Graph& g) { operation<Slice>(g, "slice").stop = 1; }},
      {"step must be in [1,", "'slice'", [](Graph& g) { operation<Slice>(g, "slice").step = 0; }},
      {"before and after must have 1 to 8", "'pad'", [](Graph& g) { operation<Pad>(g, "pad").after.pop_back(); }},
      {"before and after must have 1 to 8", "'pad'",
       [](Graph& g) {
         operation<Pad>(g, "pad") = {Shape(9, 0), Shape(9, 0)};
       }},
      {"before must be in [0,", "'pad'", [](Graph& g) { operation<Pad>(g, "pad").before[2] = -1; }},
      {"after must be in [0,", "'pad'", [](Graph& g) { operation<Pad>(g, "pad").after[0] = INT64_MAX; }},
      {"on the grid of the output", "'pad'", other_grid("pad")},
      {"order must name each dimension once", "'permute'",
       [](Graph& g) {
         operation<Permute>(g, "permute").order = {0, 1, 1, 3};
       }},
      {"order must have 1 to 8", "'permute'", [](Graph& g) { operation<Permute>(g, "permute").order.clear(); }},
      {"shape must have 1 to 8", "'reshape'", [](Graph& g) { operation<Reshape>(g, "reshape").shape.clear(); }},
      {"shape must be in [-1", "'reshape'",
       [](Graph& g) {
         operation<Reshape>(g, "reshape").shape = {0, -2};
       }},
      {"one -1", "'reshape'",
       [](Graph& g) {
         operation<Reshape>(g, "reshape").shape = {-1, -1};
       }},
      {"must be codes or accumulators", "'logits'", [](Graph& g) { node(g, "logits").inputs = {0}; }},
  });
}

}  // namespace
}  // namespace qstep::test
