#pragma once
// The weights of ir/real_weight.h as Python objects, which own their numbers.
#include <cstdint>
#include <variant>
#include <vector>

#include "qstep/ir/real_weight.h"

namespace qstep::bindings {

struct OwnedUniformWeight {
  std::vector<int64_t> shape;
  std::vector<float> values;
  std::vector<float> scale;
  int32_t zero_point;
  int32_t quant_min;
  int32_t quant_max;
};

struct OwnedPowerOfTwoWeight {
  std::vector<int64_t> shape;
  std::vector<float> values;
  int32_t bit_width;
  int32_t max_exponent;
  bool variable_length;
};

struct OwnedCodeBookWeight {
  std::vector<int64_t> shape;
  std::vector<float> values;
  std::vector<float> scale;
  std::vector<int16_t> levels;
  int64_t tables;
};

struct OwnedPiecewiseWeight {
  std::vector<int64_t> shape;
  int32_t bit_width;
  int32_t regions;
  std::vector<uint8_t> region;
  std::vector<uint8_t> magnitude;
  std::vector<uint8_t> negative;
  std::vector<double> step;
  std::vector<double> start;
  std::vector<double> constant;
};

/// Any of the four, as an argument of a bound function.
using WeightArgument = std::variant<const OwnedUniformWeight*, const OwnedPowerOfTwoWeight*, const OwnedCodeBookWeight*,
                                    const OwnedPiecewiseWeight*>;

/// Refers to the argument's numbers.
ir::RealWeight described(const WeightArgument& weight);

}  // namespace qstep::bindings
