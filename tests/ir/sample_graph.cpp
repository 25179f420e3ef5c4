#include "ir/sample_graph.h"

#include <stdexcept>
#include <utility>

namespace qstep::test {
namespace {

using namespace qstep::ir;

const Grid grid{0.5F, 3, 0.0F, 0, 15};

ValueId append(Graph& graph, const std::string& name, Operation operation, std::vector<std::string> inputs,
               Value output) {
  Node node{name, std::move(operation), {}, static_cast<ValueId>(graph.values.size())};
  for (const std::string& input : inputs) node.inputs.push_back(value_id(graph, input));
  output.name = name;
  graph.values.push_back(std::move(output));
  graph.nodes.push_back(std::move(node));
  return graph.nodes.back().output;
}

Weight weight(Shape shape, int32_t bit_width) {
  Weight weight{.shape = std::move(shape), .bit_width = bit_width};
  weight.codes.resize(static_cast<size_t>(element_count(weight.shape, "weight")));
  for (size_t i = 0; i < weight.codes.size(); ++i) {
    weight.codes[i] = static_cast<int16_t>(static_cast<int32_t>(i * 5 % (1U << bit_width)) - (1 << (bit_width - 1)));
  }
  return weight;
}

Graph make(int version) {
  const Value codes{.kind = ValueKind::codes, .grid = grid};
  Graph graph;
  graph.values.push_back({.name = "image", .kind = ValueKind::real, .shape = {2, 3, 8, 8}});
  graph.inputs = {0};
  append(graph, "quantize", Quantize{}, {"image"}, codes);
  append(graph, "conv2d",
         Conv2d{.window = {{3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}},
                .groups = 1,
                .weight = weight({4, 3, 3, 3}, 4),
                .bias = {1, -2, 3, -4},
                .requantize = {std::vector<Multiplier>(4, core::exact_multiplier(0.01)), 3, 15}},
         {"quantize"}, codes);
  append(graph, "max_pool2d", MaxPool2d{{{2, 2}, {2, 2}, {0, 0, 0, 0}, {1, 1}}, false}, {"conv2d"}, codes);
  append(graph, "avg_pool2d",
         AvgPool2d{.window = {{2, 2}, {2, 2}, {0, 0, 0, 0}, {1, 1}},
                   .multiplier = 1 << 23,
                   .constant = 5,
                   .shift = 23,
                   .clamp_max = 15},
         {"conv2d"}, codes);
  append(graph, "bilinear", Bilinear{.left = 1 << 20, .right = 1 << 20, .constant = 7, .shift = 21, .clamp_max = 15},
         {"max_pool2d", "avg_pool2d"}, codes);
  append(graph, "lookup", Lookup{"reverse", {15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0}}, {"bilinear"},
         codes);
  append(graph, "concat", Concat{1}, {"bilinear", "lookup"}, codes);
  append(graph, "slice", version == 1 ? Slice{1, 2, 6} : Slice{1, 1, 8, 2}, {"concat"}, codes);
  append(graph, "permute", Permute{{0, 2, 3, 1}}, {"slice"}, codes);
  if (version >= 2) append(graph, "pad", Pad{{0, 0, 0, 0}, {0, 0, 0, 2}}, {"permute"}, codes);
  append(graph, "reshape", Reshape{{0, -1}}, {version == 1 ? "permute" : "pad"}, codes);
  append(graph, "linear", Linear{.weight = weight({5, version == 1 ? 64 : 96}, 3), .bias = {10, 20, 30, 40, 50}},
         {"reshape"}, {.kind = ValueKind::accumulator, .scales = {0.1, 0.2, -0.3, 0.4, 0.0}});
  graph.outputs = {append(graph, "logits", Dequantize{}, {"linear"}, {.kind = ValueKind::real})};
  return graph;
}

}  // namespace

Graph sample_graph() { return make(2); }
Graph sample_graph_of_version_1() { return make(1); }

ValueId value_id(const Graph& graph, const std::string& name) {
  for (size_t i = 0; i < graph.values.size(); ++i) {
    if (graph.values[i].name == name) return static_cast<ValueId>(i);
  }
  throw std::out_of_range("no value " + name);
}

Value& value(Graph& graph, const std::string& name) { return graph.values[static_cast<size_t>(value_id(graph, name))]; }

Node& node(Graph& graph, const std::string& name) {
  for (Node& node : graph.nodes) {
    if (node.name == name) return node;
  }
  throw std::out_of_range("no node " + name);
}

}  // namespace qstep::test
