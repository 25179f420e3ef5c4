// What a network allocates, and when.
#include <gtest/gtest.h>

#include "engine/network_case.h"
#include "engine/residual_graph.h"
#include "ir/allocation_watch.h"
#include "ir/random_graph.h"
#include "ir/sample_graph.h"
#include "qstep/kernels/isa.h"

namespace qstep::test {
namespace {

using engine::IntegerNetwork;
using engine::MemoryUse;

TEST(Memory, ARunAllocatesNothing) {
  std::mt19937_64 random(43);
  const ResidualSize size{.batch = 2, .height = 64, .width = 64, .channels = 32, .groups = 2, .blocks = 2};
  const ResidualSize in_slices{.batch = 300, .height = 48, .width = 48, .blocks = 1};  // engine/batch_slices.h
  const ir::Graph graphs[] = {sample_graph(), residual_graph(size, random), residual_graph(in_slices, random)};
  for (const kernels::Isa isa : kernels::built_isas()) {
    if (!kernels::is_supported(isa)) continue;
    for (const ir::Graph& graph : graphs) {
      for (const int threads : {1, 2}) {
        const IntegerNetwork network(graph, {.isa = std::string(kernels::isa_name(isa)), .num_threads = threads});
        const std::vector<ir::Shape> shapes = {graph.values[static_cast<size_t>(graph.inputs[0])].shape};
        const NetworkInputs inputs = random_inputs(graph, shapes, random);
        const std::vector<engine::Input> views = inputs.views();
        std::vector<float> output(static_cast<size_t>(ir::element_count(network.output_shapes(shapes)[0], "output")));
        const engine::OutputPointer pointer = output.data();
        network.run(views, {&pointer, 1});  // makes the plan, the arena and the threads
        take_allocations();
        for (int repeat = 0; repeat < 3; ++repeat) network.run(views, {&pointer, 1});
        const AllocationCount found = take_allocations();
        EXPECT_EQ(found.count, 0U) << network.isa() << ", " << threads << " threads, largest " << found.largest;
      }
    }
  }
}

// Not every set of lifetimes can be packed without a gap; those of real networks can (the next test).
TEST(Memory, TheArenaIsHardlyLargerThanTheLargestLiveSetAndScratch) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    std::mt19937_64 random(seed);
    const ir::Graph graph = random_graph(random, 4 + static_cast<int>(seed % 20));
    const IntegerNetwork network(graph, {.num_threads = 2});
    const MemoryUse memory = network.memory(input_shapes(graph, 2));
    EXPECT_LE(memory.arena, (memory.activations + memory.scratch) * 21 / 20) << "seed " << seed;
    EXPECT_GE(memory.arena, memory.activations) << "seed " << seed;
  }
}

// x, its copy through two convolutions and the sum: the sum takes the place of the branch, the table that of the sum.
TEST(Memory, ElementwiseOperationsWorkInPlace) {
  std::mt19937_64 random(47);
  const ResidualSize size{.batch = 2, .height = 32, .width = 32, .channels = 32, .blocks = 3};
  const ir::Graph graph = residual_graph(size, random);
  const IntegerNetwork network(graph, {.num_threads = 1});
  const MemoryUse memory = network.memory({{2, 3, 32, 32}});
  constexpr int64_t activation = 2 * 32 * 16 * 16;
  EXPECT_EQ(memory.activations, 3 * activation);  // while the second convolution runs: x, its input, its output
  EXPECT_LE(memory.arena, memory.activations + memory.scratch);
  expect_equal_to_oracle(network, random_inputs(graph, {{2, 3, 32, 32}}, random));
}

TEST(Memory, CountsWeights) {
  std::mt19937_64 random(53);
  const ir::Graph graph = residual_graph({.channels = 32, .bit_width = 4}, random);
  const IntegerNetwork network(graph);
  const MemoryUse memory = network.memory({{1, 3, 8, 8}});
  constexpr int64_t weights = 32 * 27 + 2 * 32 * 32 * 9 + 10 * 32;
  EXPECT_EQ(memory.codes, weights / 2);
  EXPECT_GE(memory.weights, weights / 2);
  int64_t packed = 0;
  for (size_t i = 0; i < network.structure().nodes.size(); ++i) packed += network.packed_bytes(i);
  EXPECT_EQ(memory.weights, packed);
  EXPECT_EQ(network.graph(), graph);
}

}  // namespace
}  // namespace qstep::test
