#include "qstep/engine/nodes/layer.h"

#include <algorithm>
#include <utility>

#include "qstep/ir/weight.h"

namespace qstep::engine {

std::vector<int16_t> kernel_weights(const ir::Weight& weight) {
  const int64_t out = weight.shape[0];
  const int64_t in = weight.shape[1];
  const int64_t taps = static_cast<int64_t>(weight.codes.size()) / (out * in);
  std::vector<int16_t> result;
  std::vector<int16_t> filter(static_cast<size_t>(in * taps));
  for (int32_t sum = 0; sum < ir::sum_count(weight); ++sum) {
    std::vector<int16_t> weights = ir::sum_weights(weight, sum);
    if (taps > 1) {
      for (auto to = weights.begin(); to != weights.end();) {
        std::copy_n(to, in * taps, filter.begin());
        for (int64_t t = 0; t < taps; ++t) {
          for (int64_t i = 0; i < in; ++i) *to++ = filter[static_cast<size_t>(i * taps + t)];
        }
      }
    }
    if (sum == 0) {
      result = std::move(weights);
    } else {
      result.insert(result.end(), weights.begin(), weights.end());
    }
  }
  return result;
}

kernels::Requantization requantization(const NodeContext& context, const ir::Weight& weight,
                                       const ir::Requantize& requantize) {
  kernels::Requantization result{
      .policy = context.graph.policy,
      .multipliers = requantize.multipliers,
      .zero_point = context.output().kind == ir::ValueKind::codes ? context.output().grid.zero_point : 0,
      .clamp_min = requantize.clamp_min,
      .clamp_max = requantize.clamp_max};
  if (const ir::PiecewiseEncoding* pieces = ir::piecewise(weight)) {
    result.combination = {pieces->multipliers, pieces->constants, pieces->shifts};
  }
  return result;
}

kernels::Output output_pointer(const Memory& memory, const View& output, bool is_raw) {
  if (is_raw) return {.codes = nullptr, .accumulators = memory.at<int32_t>(output)};
  return {.codes = memory.at<uint8_t>(output), .accumulators = nullptr};
}

}  // namespace qstep::engine
