#pragma once
// An integer network evaluated by the definitions in ir/graph.h: int64 and __int128 on plain row-major tensors, one
// element at a time. Shares no arithmetic with kernels or engine.
#include <cstdint>
#include <vector>

#include "qstep/ir/graph.h"

namespace qstep::oracle {

/// Row-major in the logical order of dimensions. `integers` are codes or accumulators.
struct Tensor {
  ir::Shape shape;
  std::vector<int64_t> integers;
  std::vector<float> reals;
};

/// Every value of the graph, by ValueId.
std::vector<Tensor> evaluate(const ir::Graph& graph, const std::vector<Tensor>& inputs);

}  // namespace qstep::oracle
