// From the smallest to the largest: every value on every instruction set equals that of the reference kernels.
#include <gtest/gtest.h>

#include "engine/network_case.h"
#include "engine/residual_graph.h"
#include "qstep/kernels/isa.h"

namespace qstep::test {
namespace {

using engine::IntegerNetwork;

std::string to_text(const ResidualSize& s) {
  return fmt::format("{}x{}x{}x{}, {} channels in {} groups, W{}", s.batch, s.in_channels, s.height, s.width,
                     s.channels, s.groups, s.bit_width);
}

class Scale : public testing::TestWithParam<ResidualSize> {};

TEST_P(Scale, EqualsTheReferenceKernels) {
  const ResidualSize size = GetParam();
  constexpr uint64_t seed = 41;
  SCOPED_TRACE(fmt::format("{}, seed {}", to_text(size), seed));
  std::mt19937_64 random(seed);
  const ir::Graph graph = residual_graph(size, random);
  const NetworkInputs inputs = random_inputs(graph, {{size.batch, size.in_channels, size.height, size.width}}, random);
  const auto expected = IntegerNetwork(graph, {.isa = "reference"}).capture(inputs.views());
  for (const kernels::Isa isa : kernels::built_isas()) {
    if (!kernels::is_supported(isa) || isa == kernels::Isa::reference) continue;
    for (const int threads : {1, 2, 3}) {
      const IntegerNetwork network(graph, {.isa = std::string(kernels::isa_name(isa)), .num_threads = threads});
      for (const auto& [name, found] : network.capture(inputs.views())) {
        ASSERT_TRUE(found == expected.at(name)) << name << ", " << network.isa() << ", " << threads << " threads";
      }
    }
  }
}

// clang-format off
INSTANTIATE_TEST_SUITE_P(Extremes, Scale, testing::Values(
    ResidualSize{.batch = 1, .in_channels = 1, .height = 1, .width = 1, .channels = 1},
    ResidualSize{.batch = 64, .in_channels = 3, .height = 1, .width = 1, .channels = 5},
    ResidualSize{.batch = 64, .in_channels = 3, .height = 13, .width = 9, .channels = 24, .groups = 3, .bit_width = 4},
    ResidualSize{.batch = 7, .in_channels = 1, .height = 1, .width = 1024, .channels = 3},
    ResidualSize{.batch = 1, .in_channels = 2, .height = 1024, .width = 1, .channels = 17, .bit_width = 2},
    ResidualSize{.batch = 1, .in_channels = 3, .height = 1024, .width = 1024, .channels = 4, .groups = 4},
    ResidualSize{.batch = 2, .in_channels = 1, .height = 511, .width = 513, .channels = 9, .bit_width = 3},
    ResidualSize{.batch = 1, .in_channels = 4096, .height = 1, .width = 1, .stem_kernel = 1, .channels = 16},
    ResidualSize{.batch = 1, .in_channels = 16, .height = 5, .width = 3, .channels = 4096, .groups = 4096},
    ResidualSize{.batch = 1, .in_channels = 1, .height = 4, .width = 4, .channels = 4096, .groups = 64, .bit_width = 4},
    ResidualSize{.batch = 3, .in_channels = 3, .height = 30, .width = 30, .channels = 96, .groups = 32, .blocks = 2},
    ResidualSize{.batch = 1, .in_channels = 3, .height = 14, .width = 14, .channels = 320, .bit_width = 4}));
// clang-format on

}  // namespace
}  // namespace qstep::test
