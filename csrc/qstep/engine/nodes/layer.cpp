#include "qstep/engine/nodes/layer.h"

namespace qstep::engine {

std::vector<int16_t> kernel_weights(const ir::Weight& weight) {
  const int64_t out = weight.shape[0];
  const int64_t in = weight.shape[1];
  const int64_t taps = static_cast<int64_t>(weight.codes.size()) / (out * in);
  std::vector<int16_t> result(weight.codes.size());
  for (int64_t o = 0; o < out; ++o) {
    for (int64_t i = 0; i < in; ++i) {
      for (int64_t t = 0; t < taps; ++t) {
        const int16_t code = weight.codes[static_cast<size_t>((o * in + i) * taps + t)];
        result[static_cast<size_t>((o * taps + t) * in + i)] = static_cast<int16_t>(code - weight.zero_point);
      }
    }
  }
  return result;
}

kernels::Requantization requantization(const NodeContext& context, const ir::Requantize& requantize) {
  return {.policy = context.graph.policy,
          .multipliers = requantize.multipliers,
          .zero_point = requantize.multipliers.empty() ? 0 : context.output().grid.zero_point,
          .clamp_min = requantize.clamp_min,
          .clamp_max = requantize.clamp_max};
}

kernels::Output output_pointer(const Memory& memory, const View& output, bool is_raw) {
  if (is_raw) return {.codes = nullptr, .accumulators = memory.at<int32_t>(output)};
  return {.codes = memory.at<uint8_t>(output), .accumulators = nullptr};
}

}  // namespace qstep::engine
