#pragma once
// What the engine's tests share: random inputs, the engine's results beside the oracle's.
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "oracle/network.h"
#include "qstep/engine/network.h"

namespace qstep::test {

/// Inputs in both forms.
struct NetworkInputs {
  std::vector<oracle::Tensor> tensors;
  std::vector<std::vector<uint8_t>> codes;  // memory of the inputs of codes

  std::vector<engine::Input> views() const;
};

/// Reals with ties, saturation, infinities and negative zero; codes up to quant_max.
NetworkInputs random_inputs(const ir::Graph& graph, const std::vector<ir::Shape>& shapes, std::mt19937_64& random);

/// The integers or reals of an engine's tensor as the oracle has them.
oracle::Tensor as_oracle(const engine::Tensor& tensor);

/// Every value of the network equals the oracle's, captured and as an output.
void expect_equal_to_oracle(const engine::IntegerNetwork& network, const NetworkInputs& inputs);

}  // namespace qstep::test
