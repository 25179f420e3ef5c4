#pragma once
// Random valid graphs: every kind of node, every bit width, branches, small tensors.
#include <random>

#include "qstep/ir/graph.h"

namespace qstep::test {

/// A graph of about `nodes` nodes; the shapes of its values are filled in.
ir::Graph random_graph(std::mt19937_64& random, int nodes);

/// The shapes of the graph's inputs with another batch size or, where a node does not take that, as it was made.
std::vector<ir::Shape> input_shapes(const ir::Graph& graph, int64_t batch);

}  // namespace qstep::test
