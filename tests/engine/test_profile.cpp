#include <gtest/gtest.h>

#include "engine/network_case.h"
#include "ir/expect_error.h"
#include "ir/sample_graph.h"
#include "qstep/ir/weight.h"
#include "qstep/kernels/peak/peak.h"

namespace qstep::test {
namespace {

using engine::IntegerNetwork;
using engine::Profile;

TEST(Profile, HasEveryNodeWithItsKernelAndProducts) {
  const IntegerNetwork network(sample_graph(), {.isa = "reference", .num_threads = 2});
  std::mt19937_64 random(31);
  const NetworkInputs inputs = random_inputs(network.structure(), {{4, 3, 8, 8}}, random);
  const Profile profile = network.profile(inputs.views(), 5);
  ASSERT_EQ(profile.nodes.size(), network.structure().nodes.size());
  for (size_t i = 0; i < profile.nodes.size(); ++i) {
    const Profile::Node& node = profile.nodes[i];
    EXPECT_EQ(node.kernel, network.kernel_name(i));
    EXPECT_TRUE(node.seconds > 0 || node.kernel == "view" || node.kernel == "copy")
        << network.structure().nodes[i].name;
    EXPECT_EQ(node.output_shape[0], 4);
    EXPECT_EQ(node.products > 0, ir::weight_of(network.structure().nodes[i]) != nullptr);
  }
  EXPECT_GT(profile.fastest, 0);
  EXPECT_GE(profile.seconds, profile.fastest);
  EXPECT_EQ(profile.threads, 2);
  EXPECT_GT(profile.peak, 1e6);
  expect_equal_to_oracle(network, inputs);  // measuring changes nothing
}

TEST(Profile, CountsTheProductsOfTheDefinition) {
  const ir::Graph graph = sample_graph();
  const ir::Node& conv = node(const_cast<ir::Graph&>(graph), "conv2d");
  const auto& weight = std::get<ir::Conv2d>(conv.operation).weight;
  const ir::Shape output = {2, weight.shape[0], 5, 7};
  EXPECT_EQ(engine::product_count(conv, output),
            2 * 5 * 7 * weight.shape[0] * weight.shape[1] * weight.shape[2] * weight.shape[3]);
  EXPECT_EQ(engine::product_count(graph.nodes[0], output), 0);
}

TEST(Profile, Medians) {
  EXPECT_EQ(engine::median({3}), 3);
  EXPECT_EQ(engine::median({3, 1}), 2);
  EXPECT_EQ(engine::median({9, 1, 2}), 2);
  EXPECT_EQ(engine::median({9, 1, 2, 4}), 3);
}

TEST(Profile, BadInputIsNamed) {
  const IntegerNetwork network(sample_graph());
  std::mt19937_64 random(37);
  const NetworkInputs inputs = random_inputs(network.structure(), {{2, 3, 8, 8}}, random);
  for (const int repeats : {0, -3}) {
    expect_error([&] { network.profile(inputs.views(), repeats); }, "repeats", fmt::format("got {}", repeats));
  }
  std::vector<engine::Input> wrong = inputs.views();
  wrong[0].shape = {2, 4, 8, 6};
  expect_error([&] { network.profile(wrong, 1); }, "'conv2d'", "3 channels");
  wrong[0].shape = {2, -3, 8, 8};
  expect_error([&] { network.profile(wrong, 1); }, "'image'");
  expect_error([&] { network.profile({}, 1); }, "1 inputs, got 0");
}

TEST(Peak, EveryInstructionSetHasOne) {
  const double reference = kernels::measure_peak(kernels::Isa::reference);
  for (const kernels::Isa isa : kernels::built_isas()) {
    if (!kernels::is_supported(isa)) {
      expect_error([&] { kernels::measure_peak(isa); }, kernels::isa_name(isa));
      continue;
    }
    const double peak = kernels::measure_peak(isa);
    EXPECT_GT(peak, 1e7) << kernels::isa_name(isa);
    if (isa > kernels::Isa::reference) {
      EXPECT_GT(peak, 2 * reference) << kernels::isa_name(isa);
    }
  }
}

// The loops compute what they say: each sum starts as its number and receives 4 products of 3 and -5 per lane and round.
TEST(Peak, LoopsAreNotOptimizedAway) {
  for (const kernels::PeakKernel& kernel : kernels::peak_kernels()) {
    if (!kernels::is_supported(kernel.isa)) continue;
    EXPECT_NE(kernel.run(1), kernel.run(3)) << kernel.name;
    EXPECT_EQ(kernel.run(5), kernel.run(5)) << kernel.name;
    EXPECT_GT(kernel.products, 0);
  }
}

}  // namespace
}  // namespace qstep::test
