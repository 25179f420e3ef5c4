#pragma once
// Integer weights taken apart: the ranges of their codes, and the integers that multiply.
#include <cstdint>
#include <vector>

#include "qstep/ir/graph.h"

namespace qstep::ir {

struct CodeRange {
  int32_t low;
  int32_t high;
};

/// The codes of a uniform encoding: two's complement, or from 0.
CodeRange uniform_range(int32_t bit_width, bool is_signed);

/// Largest j of a power-of-two encoding: 2^(bit_width - 2) - 1.
inline int32_t largest_exponent(int32_t bit_width) { return (1 << (bit_width - 2)) - 1; }

/// The weight of a convolution or linear layer, null for other nodes.
inline Weight* weight_of(Node& node) {
  if (auto* conv = std::get_if<Conv2d>(&node.operation)) return &conv->weight;
  if (auto* linear = std::get_if<Linear>(&node.operation)) return &linear->weight;
  return nullptr;
}
inline const Weight* weight_of(const Node& node) { return weight_of(const_cast<Node&>(node)); }

/// The encoding where it is piecewise, else null.
inline const PiecewiseEncoding* piecewise(const Weight& weight) {
  return std::get_if<PiecewiseEncoding>(&weight.encoding);
}

/// Bits that name one of `count` things.
int32_t bits_to_count(int64_t count);

/// One code of a piecewise encoding.
struct PiecewiseCode {
  int32_t region = 0;
  bool negative = false;
  int32_t magnitude = 0;
};
PiecewiseCode split_code(int16_t code, int32_t bit_width);
int16_t join_code(const PiecewiseCode& parts, int32_t bit_width);

/// How many sums a layer with these weights computes: 1, or those of PiecewiseEncoding.
int32_t sum_count(const Weight& weight);

/// What multiplies the centred input codes in sum number `sum`; in the order of weight.codes.
std::vector<int16_t> sum_weights(const Weight& weight, int32_t sum = 0);

}  // namespace qstep::ir
