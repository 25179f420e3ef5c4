#pragma once
// A small residual network of any size: what the engine's tests of scale and memory run.
#include <cstdint>
#include <random>

#include "qstep/ir/graph.h"

namespace qstep::test {

struct ResidualSize {
  int64_t batch = 1;
  int64_t in_channels = 3;
  int64_t height = 8;
  int64_t width = 8;
  int32_t stem_kernel = 3;
  int64_t channels = 16;
  int32_t groups = 1;
  int32_t bit_width = 8;
  int blocks = 1;
};

/// image -> quantize -> stem, stride 2 -> blocks of (two grouped 3x3 convolutions, add, hardswish as a table) -> global
/// average -> linear, float32 out. Weights are random.
ir::Graph residual_graph(const ResidualSize& size, std::mt19937_64& random);

}  // namespace qstep::test
