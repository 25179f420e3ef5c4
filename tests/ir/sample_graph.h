#pragma once
// One small graph with every kind of node, for tests that change a single thing in it.
#include <string>

#include "qstep/ir/graph.h"

namespace qstep::test {

/// image [2, 3, 8, 8] -> quantize -> conv -> {max_pool, avg_pool} -> ... -> linear (accumulators) -> logits.
ir::Graph sample_graph();
/// Without what version 2 of the checkpoint added: what version1.safetensors holds.
ir::Graph sample_graph_of_version_1();

ir::ValueId value_id(const ir::Graph& graph, const std::string& name);
ir::Value& value(ir::Graph& graph, const std::string& name);
ir::Node& node(ir::Graph& graph, const std::string& name);

/// The operation of the node that is called after its kind.
template <class Operation>
Operation& operation(ir::Graph& graph, const std::string& name) {
  return std::get<Operation>(node(graph, name).operation);
}

}  // namespace qstep::test
