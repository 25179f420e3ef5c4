#include "qstep/ir/weight.h"

namespace qstep::ir {

CodeRange uniform_range(int32_t bit_width, bool is_signed) {
  if (is_signed) return {-(1 << (bit_width - 1)), (1 << (bit_width - 1)) - 1};
  return {0, (1 << bit_width) - 1};
}

int32_t bits_to_count(int64_t count) {
  int32_t bits = 0;
  while (int64_t{1} << bits < count) ++bits;
  return bits;
}

PiecewiseCode split_code(int16_t code, int32_t bit_width) {
  const int32_t sign = 1 << (bit_width - 1);
  return {code >> bit_width, (code & sign) != 0, code & (sign - 1)};
}

int16_t join_code(const PiecewiseCode& parts, int32_t bit_width) {
  return static_cast<int16_t>(parts.region << bit_width | (parts.negative ? 1 : 0) << (bit_width - 1) |
                              parts.magnitude);
}

int32_t sum_count(const Weight& weight) {
  const PiecewiseEncoding* encoding = piecewise(weight);
  return encoding == nullptr ? 1 : encoding->sums();
}

std::vector<int16_t> sum_weights(const Weight& weight, int32_t sum) {
  std::vector<int16_t> result = weight.codes;
  if (const auto* uniform = std::get_if<UniformEncoding>(&weight.encoding)) {
    for (int16_t& code : result) code = static_cast<int16_t>(code - uniform->zero_point);
  }
  if (const PiecewiseEncoding* encoding = piecewise(weight)) {
    const bool of_magnitudes = sum < encoding->regions;
    const bool of_all = sum == 2 * encoding->regions - 1;
    const int32_t region = of_magnitudes ? sum : sum - encoding->regions + 1;
    for (int16_t& code : result) {
      const PiecewiseCode parts = split_code(code, weight.bit_width);
      const int32_t magnitude = of_magnitudes ? parts.magnitude : 1;
      const int32_t signed_magnitude = parts.negative && !of_all ? -magnitude : magnitude;
      code = static_cast<int16_t>(of_all || parts.region == region ? signed_magnitude : 0);
    }
  }
  return result;
}

}  // namespace qstep::ir
