#include "engine/network_case.h"

#include <limits>

namespace qstep::test {

std::vector<engine::Input> NetworkInputs::views() const {
  std::vector<engine::Input> views;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (codes[i].empty()) {
      views.push_back({tensors[i].shape, tensors[i].reals.data()});
    } else {
      views.push_back({tensors[i].shape, codes[i].data()});
    }
  }
  return views;
}

NetworkInputs random_inputs(const ir::Graph& graph, const std::vector<ir::Shape>& shapes, std::mt19937_64& random) {
  NetworkInputs inputs;
  for (size_t i = 0; i < shapes.size(); ++i) {
    const ir::Value& value = graph.values[static_cast<size_t>(graph.inputs[i])];
    oracle::Tensor tensor{shapes[i], {}, {}};
    std::vector<uint8_t> codes;
    for (int64_t n = ir::element_count(shapes[i], "input"); n > 0; --n) {
      if (value.kind == ir::ValueKind::codes) {
        codes.push_back(static_cast<uint8_t>(random() % static_cast<uint64_t>(value.grid.quant_max + 1)));
        tensor.integers.push_back(codes.back());
      } else {
        constexpr float infinity = std::numeric_limits<float>::infinity();
        const float special[] = {0.0F, -0.0F, infinity, -infinity, 3.4e38F, 0.5F, -1.5F, 2.5F};
        const bool is_special = random() % 16 == 0;
        tensor.reals.push_back(is_special ? special[random() % 8] : std::normal_distribution<float>(0, 2)(random));
      }
    }
    inputs.tensors.push_back(std::move(tensor));
    inputs.codes.push_back(std::move(codes));
  }
  return inputs;
}

oracle::Tensor as_oracle(const engine::Tensor& tensor) {
  oracle::Tensor result{tensor.shape, {}, {}};
  if (const auto* reals = std::get_if<std::vector<float>>(&tensor.data)) {
    result.reals = *reals;
  } else if (const auto* codes = std::get_if<std::vector<uint8_t>>(&tensor.data)) {
    result.integers.assign(codes->begin(), codes->end());
  } else {
    const auto& accumulators = std::get<std::vector<int32_t>>(tensor.data);
    result.integers.assign(accumulators.begin(), accumulators.end());
  }
  return result;
}

void expect_equal_to_oracle(const engine::IntegerNetwork& network, const NetworkInputs& inputs) {
  const ir::Graph graph = network.graph();
  const std::vector<oracle::Tensor> expected = oracle::evaluate(graph, inputs.tensors);
  const auto captured = network.capture(inputs.views());
  for (size_t i = 0; i < graph.values.size(); ++i) {
    if (graph.values[i].kind == ir::ValueKind::real) continue;
    const oracle::Tensor found = as_oracle(captured.at(graph.values[i].name));
    ASSERT_EQ(found.shape, expected[i].shape) << graph.values[i].name;
    ASSERT_EQ(found.integers, expected[i].integers) << graph.values[i].name << " on " << network.isa();
  }
  const std::vector<engine::Tensor> outputs = network.run(inputs.views());
  ASSERT_EQ(outputs.size(), graph.outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    const auto id = static_cast<size_t>(graph.outputs[i]);
    const oracle::Tensor found = as_oracle(outputs[i]);
    ASSERT_EQ(found.shape, expected[id].shape) << graph.values[id].name;
    ASSERT_EQ(found.integers, expected[id].integers) << graph.values[id].name;
    ASSERT_EQ(found.reals, expected[id].reals) << graph.values[id].name;
  }
}

}  // namespace qstep::test
