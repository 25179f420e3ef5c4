// The engine against the oracle, on every value of random networks.
#include "qstep/engine/network.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <set>
#include <thread>
#include <utility>

#include "engine/network_case.h"
#include "engine/residual_graph.h"
#include "ir/expect_error.h"
#include "ir/random_graph.h"
#include "ir/sample_graph.h"
#include "qstep/ir/builder.h"
#include "qstep/kernels/isa.h"

namespace qstep::test {
namespace {

using namespace qstep::ir;
using engine::IntegerNetwork;

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const kernels::Isa isa : kernels::built_isas()) {
    if (kernels::is_supported(isa)) names.emplace_back(kernels::isa_name(isa));
  }
  return names;
}

TEST(Network, EveryValueOfRandomGraphsEqualsTheOracle) {
  std::array<int, std::variant_size_v<Operation>> kinds{};
  for (uint64_t seed = 0; seed < 500; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    std::mt19937_64 random(seed);
    const Graph graph = random_graph(random, 4 + static_cast<int>(seed % 20));
    const NetworkInputs inputs = random_inputs(graph, input_shapes(graph, 1 + static_cast<int64_t>(seed % 3)), random);
    for (const Node& node : graph.nodes) ++kinds[node.operation.index()];
    for (const std::string& isa : isas()) {
      ASSERT_NO_FATAL_FAILURE(expect_equal_to_oracle(IntegerNetwork(graph, {.isa = isa, .num_threads = 1}), inputs));
    }
  }
  for (const int count : kinds) EXPECT_GT(count, 100);
}

// Large enough that the work is really shared.
Graph wide_graph() {
  Graph graph = sample_graph();
  std::mt19937_64 random(3);
  Conv2d& conv = operation<Conv2d>(graph, "conv2d");
  conv.weight = {.shape = {48, 3, 3, 3}, .bit_width = 4, .codes = std::vector<int16_t>(48 * 27)};
  for (int16_t& code : conv.weight.codes) code = static_cast<int16_t>(static_cast<int>(random() % 16) - 8);
  conv.bias.assign(48, 3);
  conv.requantize.multipliers.assign(1, core::exact_multiplier(0.03));
  operation<Slice>(graph, "slice") = {1, 5, 69};
  Linear& linear = operation<Linear>(graph, "linear");
  linear.weight = {.shape = {5, 66 * 16 * 16}, .bit_width = 3, .codes = std::vector<int16_t>(5 * 66 * 16 * 16)};
  for (int16_t& code : linear.weight.codes) code = static_cast<int16_t>(static_cast<int>(random() % 8) - 4);
  return graph;
}

TEST(Network, ThreadsChangeNothing) {
  const Graph graph = wide_graph();
  std::mt19937_64 random(5);
  const NetworkInputs inputs = random_inputs(graph, {{2, 3, 32, 32}}, random);
  const auto expected = IntegerNetwork(graph, {.num_threads = 1}).capture(inputs.views());
  for (const int threads : {2, 3, 5}) {
    const IntegerNetwork network(graph, {.num_threads = threads});
    for (int repeat = 0; repeat < 20; ++repeat)
      ASSERT_EQ(network.capture(inputs.views()), expected) << threads << " threads";
  }
  expect_equal_to_oracle(IntegerNetwork(graph, {.num_threads = 2}), inputs);
}

// A batch too large for a cache goes through the first nodes slice by slice (engine/batch_slices.h), but not where every
// value is asked for.
TEST(Network, SlicesOfTheBatchChangeNothing) {
  constexpr int64_t batch = 3 * 1024;
  int sliced = 0;
  for (uint64_t seed = 0; seed < 120; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    std::mt19937_64 random(seed);
    const Graph graph = random_graph(random, 4 + static_cast<int>(seed % 20));
    const std::vector<Shape> shapes = input_shapes(graph, batch);
    const NetworkInputs inputs = random_inputs(graph, shapes, random);
    const IntegerNetwork network(graph, {.num_threads = 1 + static_cast<int>(seed % 3)});
    const std::vector<engine::Tensor> results = network.run(inputs.views());
    const auto captured = network.capture(inputs.views());
    bool is_compared = false;
    for (size_t i = 0; i < results.size(); ++i) {
      const Value& value = graph.values[static_cast<size_t>(graph.outputs[i])];
      if (value.kind == ValueKind::real) continue;
      ASSERT_EQ(results[i], captured.at(value.name)) << value.name;
      is_compared = true;
    }
    const int64_t of_an_image = network.memory(input_shapes(graph, 1)).activations;
    sliced += is_compared && network.memory(shapes).activations < batch / 2 * of_an_image ? 1 : 0;
  }
  EXPECT_GE(sliced, 5);
}

TEST(Network, SlicesOfTheBatchAreItsImages) {
  std::mt19937_64 random(7);
  for (const int64_t batch : {512, 510, 546}) {
    const ResidualSize size{.batch = batch, .height = 48, .width = 48, .channels = 16, .blocks = 2};
    const Graph graph = residual_graph(size, random);
    const NetworkInputs inputs = random_inputs(graph, {{batch, 3, 48, 48}}, random);
    for (const int threads : {1, 2, 3}) {
      const IntegerNetwork network(graph, {.num_threads = threads});
      const int64_t of_an_image = network.memory({{1, 3, 48, 48}}).activations;
      EXPECT_LT(network.memory({{batch, 3, 48, 48}}).activations, batch * of_an_image * 3 / 4);
      const auto results = std::get<std::vector<float>>(network.run(inputs.views())[0].data);
      const size_t classes = results.size() / static_cast<size_t>(batch);
      for (int64_t i = 0; i < batch; ++i) {
        engine::Input image{{1, 3, 48, 48}, inputs.tensors[0].reals.data() + i * 3 * 48 * 48};
        const auto result = std::get<std::vector<float>>(network.run({&image, 1})[0].data);
        ASSERT_TRUE(std::ranges::equal(std::span(results).subspan(static_cast<size_t>(i) * classes, classes), result))
            << "image " << i << " of " << batch << ", " << threads << " threads";
      }
    }
  }
}

// NaN in a late slice leaves the network as it was; profiles and the caller's threads go through slices, too.
TEST(Network, SlicesOfTheBatchInEveryKindOfRun) {
  constexpr int64_t batch = 512;
  std::mt19937_64 random(9);
  const ResidualSize size{.batch = batch, .height = 48, .width = 48, .channels = 16, .blocks = 2};
  const Graph graph = residual_graph(size, random);
  NetworkInputs inputs = random_inputs(graph, {{batch, 3, 48, 48}}, random);
  const IntegerNetwork network(graph, {.num_threads = 2});
  const std::vector<engine::Tensor> expected = network.run(inputs.views());

  float& late = inputs.tensors[0].reals[inputs.tensors[0].reals.size() - 7];
  const float kept = std::exchange(late, NAN);
  expect_error([&] { network.run(inputs.views()); }, "must not hold NaN");
  late = kept;
  EXPECT_EQ(network.run(inputs.views()), expected);

  double of_nodes = 0;
  const engine::Profile profile = network.profile(inputs.views(), 3);
  for (const auto& node : profile.nodes) of_nodes += node.seconds;
  EXPECT_NEAR(of_nodes, profile.seconds, 0.5 * profile.seconds);  // of all slices
  EXPECT_EQ(network.run(inputs.views()), expected);

  const engine::ParallelFor on_threads = [](int tasks, const std::function<void(int)>& task) {
    std::vector<std::jthread> threads;
    for (int t = 0; t < tasks; ++t) threads.emplace_back(task, t);
  };
  EXPECT_EQ(IntegerNetwork(graph, {.num_threads = 2, .parallel_for = on_threads}).run(inputs.views()), expected);
  std::vector<std::jthread> at_once;
  for (int t = 0; t < 3; ++t) {
    at_once.emplace_back([&] { EXPECT_EQ(network.run(inputs.views()), expected); });
  }
}

// Real values between layers, which no lowering makes but a checkpoint may hold.
TEST(Network, RealValuesInside) {
  std::mt19937_64 random(13);
  for (const Shape& shape : {Shape{1, 2, 2, 2}, Shape{1, 64, 64, 64}}) {
    Builder builder;
    ValueId x = builder.input("x", shape);
    for (const float scale : {0.5F, 0.3F, 0.07F}) {
      const std::string number = std::to_string(scale);
      x = builder.quantize("quantize" + number, x, {.scale = scale, .zero_point = 100, .quant_max = 255});
      x = builder.dequantize("dequantize" + number, x);
    }
    builder.output(x);
    const Graph graph = builder.finish();
    for (const std::string& isa : isas()) {
      const IntegerNetwork network(graph, {.isa = isa, .num_threads = 2});
      ASSERT_NO_FATAL_FAILURE(expect_equal_to_oracle(network, random_inputs(graph, {shape}, random)));
    }
  }
}

TEST(Network, ShapesMayChangeFromRunToRun) {
  const Graph graph = [] {  // fully convolutional
    Graph g = sample_graph();
    g.nodes.resize(9);
    g.values.resize(10);
    g.outputs = {value_id(g, "permute"), value_id(g, "lookup")};
    return g;
  }();
  const IntegerNetwork network(graph, {.num_threads = 2});
  std::mt19937_64 random(11);
  for (int repeat = 0; repeat < 60; ++repeat) {
    const auto size = [&] { return static_cast<int64_t>(2 + random() % 12); };
    const NetworkInputs inputs =
        random_inputs(graph, {{static_cast<int64_t>(1 + random() % 3), 3, size(), size()}}, random);
    ASSERT_NO_FATAL_FAILURE(expect_equal_to_oracle(network, inputs)) << "repeat " << repeat;
  }
}

TEST(Network, AnEmptyBatchGivesEmptyResults) {
  const IntegerNetwork network(sample_graph());
  const std::vector<float> nothing;
  const engine::Input input{{0, 3, 8, 8}, nothing.data()};
  const auto outputs = network.run({&input, 1});
  EXPECT_EQ(outputs[0].shape, (Shape{0, 5}));
  EXPECT_TRUE(std::get<std::vector<float>>(outputs[0].data).empty());
}

TEST(Network, ManyThreadsMayRunItAtOnce) {
  const Graph graph = wide_graph();
  const IntegerNetwork network(graph, {.num_threads = 2});
  std::mt19937_64 random(17);
  std::vector<NetworkInputs> inputs;
  std::vector<std::map<std::string, engine::Tensor>> expected;
  for (int64_t i = 0; i < 4; ++i) {
    inputs.push_back(random_inputs(graph, {{1 + i % 2, 3, 32, 32}}, random));
    expected.push_back(network.capture(inputs.back().views()));
  }
  std::vector<int> equal(4, 0);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int repeat = 0; repeat < 15; ++repeat) equal[i] += network.capture(inputs[i].views()) == expected[i] ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(equal, (std::vector<int>{15, 15, 15, 15}));
}

TEST(Network, RunsOnTheCallersThreads) {
  const Graph graph = wide_graph();
  std::mt19937_64 random(18);
  const NetworkInputs inputs = random_inputs(graph, {{2, 3, 32, 32}}, random);
  const auto expected = IntegerNetwork(graph, {.num_threads = 1}).capture(inputs.views());
  int calls = 0;
  const engine::ParallelFor new_threads = [&](int tasks, const std::function<void(int)>& task) {
    ++calls;
    EXPECT_EQ(tasks, 3);
    std::vector<std::thread> threads;
    for (int i = 0; i < tasks; ++i) threads.emplace_back(task, i);
    for (std::thread& thread : threads) thread.join();
  };
  const engine::ParallelFor last_first = [&](int tasks, const std::function<void(int)>& task) {
    ++calls;
    while (tasks-- > 0) task(tasks);
  };
  for (const engine::ParallelFor& parallel_for : {new_threads, last_first}) {
    const IntegerNetwork network(graph, {.num_threads = 3, .parallel_for = parallel_for});
    EXPECT_EQ(network.capture(inputs.views()), expected);
    EXPECT_GT(std::exchange(calls, 0), 0);
  }
}

TEST(Network, RunsIntoTheCallersMemory) {
  const IntegerNetwork network(sample_graph());
  std::mt19937_64 random(19);
  const NetworkInputs inputs = random_inputs(network.structure(), {{2, 3, 8, 8}}, random);
  std::vector<float> logits(11, 123.0F);
  ASSERT_EQ(network.output_shapes({{2, 3, 8, 8}}), (std::vector<Shape>{{2, 5}}));
  const engine::OutputPointer output = logits.data();
  network.run(inputs.views(), {&output, 1});
  EXPECT_EQ(logits.back(), 123.0F);
  logits.pop_back();
  EXPECT_EQ(logits, std::get<std::vector<float>>(network.run(inputs.views())[0].data));
}

TEST(Network, OneNodeOnItsOwnEqualsTheWhole) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    std::mt19937_64 random(seed);
    const Graph graph = random_graph(random, 12);
    const IntegerNetwork network(graph, {.num_threads = 1});
    const NetworkInputs inputs = random_inputs(graph, input_shapes(graph, 2), random);
    const std::vector<oracle::Tensor> expected = oracle::evaluate(graph, inputs.tensors);
    for (size_t n = 0; n < graph.nodes.size(); ++n) {
      const Node& node = graph.nodes[n];
      EXPECT_EQ(network.node_index(node.name), n);
      std::vector<std::vector<uint8_t>> codes(node.inputs.size());
      std::vector<std::vector<int32_t>> accumulators(node.inputs.size());
      std::vector<engine::Input> views;
      for (size_t i = 0; i < node.inputs.size(); ++i) {
        const auto id = static_cast<size_t>(node.inputs[i]);
        const oracle::Tensor& x = expected[id];
        codes[i].assign(x.integers.begin(), x.integers.end());
        accumulators[i].assign(x.integers.begin(), x.integers.end());
        switch (graph.values[id].kind) {
          case ValueKind::real:
            views.push_back({x.shape, x.reals.data()});
            break;
          case ValueKind::codes:
            views.push_back({x.shape, codes[i].data()});
            break;
          case ValueKind::accumulator:
            views.push_back({x.shape, accumulators[i].data()});
            break;
        }
      }
      const oracle::Tensor found = as_oracle(network.run_node(n, views));
      const oracle::Tensor& wanted = expected[static_cast<size_t>(node.output)];
      ASSERT_EQ(found.shape, wanted.shape) << node.name;
      ASSERT_EQ(found.integers, wanted.integers) << node.name;
      ASSERT_EQ(found.reals, wanted.reals) << node.name;
    }
  }
}

TEST(Network, BadInputIsNamed) {
  const IntegerNetwork network(sample_graph());
  std::mt19937_64 random(23);
  NetworkInputs inputs = random_inputs(network.structure(), {{2, 3, 8, 8}}, random);
  expect_error([&] { network.run({}); }, "1 inputs, got 0");
  std::vector<uint8_t> codes(384);
  engine::Input input{{2, 3, 8, 8}, codes.data()};
  expect_error([&] { network.run({&input, 1}); }, "'image'", "float32 values", "uint8 codes");
  input = {{2, 4, 8, 8}, inputs.tensors[0].reals.data()};
  expect_error([&] { network.run({&input, 1}); }, "'conv2d'", "3 channels");
  input = {{2, 3, 8, 8}, static_cast<const float*>(nullptr)};
  expect_error([&] { network.run({&input, 1}); }, "'image'", "no data");
  expect_error([&] { network.run_node(99, {}); }, "node must be in");
  expect_error([&] { network.node_index("nobody"); }, "nobody");
  expect_error([&] { network.run_node(1, {}); }, "'conv2d'", "1 inputs");
  codes[77] = 16;
  input = {{2, 3, 8, 8}, codes.data()};
  expect_error([&] { network.run_node(1, {&input, 1}); }, "'quantize'", "[0, 15]", "got 16");

  for (const size_t at : {size_t{0}, size_t{100}, size_t{383}}) {
    std::vector<float> reals = inputs.tensors[0].reals;
    reals[at] = std::nanf("");
    input = {{2, 3, 8, 8}, reals.data()};
    expect_error([&] { network.run({&input, 1}); }, "'image'", "NaN");
  }
  expect_equal_to_oracle(network, inputs);  // an error leaves the network as it was

  expect_error([] { IntegerNetwork(sample_graph(), {.isa = "z80"}); }, "z80");
  expect_error([] { IntegerNetwork(sample_graph(), {.num_threads = -1}); }, "num_threads");
  expect_error([] { IntegerNetwork(Graph{}); }, "inputs must not be empty");
}

TEST(Network, ReportsKernelsAndMemory) {
  const Graph graph = sample_graph();
  const IntegerNetwork network(graph, {.isa = "reference", .num_threads = 1});
  EXPECT_EQ(network.isa(), "reference");
  EXPECT_EQ(network.num_threads(), 1);
  for (size_t n = 0; n < graph.nodes.size(); ++n) {
    EXPECT_FALSE(network.kernel_name(n).empty());
    const bool has_weights = std::holds_alternative<Conv2d>(graph.nodes[n].operation) ||
                             std::holds_alternative<Linear>(graph.nodes[n].operation);
    EXPECT_EQ(network.packed_bytes(n) > 0, has_weights) << graph.nodes[n].name;
  }
  EXPECT_EQ(network.kernel_name(network.node_index("permute")), "view");
}

// The oracle must be able to see what it is there to see: a network with one changed weight is not the same network.
TEST(Network, AWrongWeightIsCaught) {
  const Graph graph = sample_graph();
  Graph wrong = graph;
  operation<Conv2d>(wrong, "conv2d").weight.codes[13] ^= 1;
  std::mt19937_64 random(29);
  const NetworkInputs inputs = random_inputs(graph, {{2, 3, 8, 8}}, random);
  const auto expected = oracle::evaluate(graph, inputs.tensors);
  const auto found = IntegerNetwork(wrong).capture(inputs.views());
  EXPECT_EQ(as_oracle(found.at("quantize")).integers, expected[1].integers);
  EXPECT_NE(as_oracle(found.at("conv2d")).integers, expected[2].integers);
}

}  // namespace
}  // namespace qstep::test
