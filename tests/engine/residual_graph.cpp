#include "engine/residual_graph.h"

#include <fmt/format.h>

#include <cmath>
#include <string>
#include <vector>

#include "qstep/ir/builder.h"

namespace qstep::test {
namespace {

using namespace qstep::ir;

class Maker {
 public:
  Maker(const ResidualSize& size, std::mt19937_64& random) : size_(size), random_(random) {}

  Graph make() {
    ValueId x = builder_.input("image", {size_.batch, size_.in_channels, size_.height, size_.width});
    x = builder_.quantize("quantize", x, grid_);
    x = conv("stem", x, size_.in_channels, size_.stem_kernel, 2, 1);
    for (int i = 0; i < size_.blocks; ++i) {
      const ValueId inner = conv(fmt::format("{}.conv1", i), x, size_.channels, 3, 1, size_.groups);
      const ValueId branch = conv(fmt::format("{}.conv2", i), inner, size_.channels, 3, 1, size_.groups);
      const ValueId sum = builder_.add(fmt::format("{}.add", i), branch, x, {grid_});
      x = builder_.lookup(fmt::format("{}.activation", i), sum, "hardswish", {}, grid_);
    }
    x = builder_.adaptive_avg_pool2d("average", x, 1, 1, Target{grid_});
    x = builder_.reshape("flatten", x, {0, size_.channels});
    x = builder_.linear("linear", x, weight({10, size_.channels}), {}, std::nullopt);
    builder_.output(builder_.dequantize("logits", x));
    return builder_.finish();
  }

 private:
  ValueId conv(const std::string& name, ValueId x, int64_t in, int32_t kernel, int32_t stride, int32_t groups) {
    const int32_t border = kernel / 2;
    return builder_.conv2d(name, x, {{kernel, kernel}, {stride, stride}, {border, border, border, border}, {1, 1}},
                           groups, weight({size_.channels, in / groups, kernel, kernel}), {}, Target{grid_});
  }

  // Of all codes, on a scale that keeps the output's variance near the input's.
  UniformWeight weight(std::vector<int64_t> shape) {
    const int64_t count = element_count(shape, "weight");
    const int32_t low = -(1 << (size_.bit_width - 1));
    scale_ = static_cast<float>(1.7 / (-low * std::sqrt(static_cast<double>(count / shape[0]))));
    values_.resize(static_cast<size_t>(count));
    for (float& value : values_) {
      value = scale_ * static_cast<float>(low + static_cast<int32_t>(random_() % (uint64_t{1} << size_.bit_width)));
    }
    return {
        .shape = std::move(shape), .values = values_, .scale = {&scale_, 1}, .quant_min = low, .quant_max = -low - 1};
  }

  const ResidualSize& size_;
  std::mt19937_64& random_;
  const core::Grid grid_{0.03F, 120, 0.0F, 0, 255};
  Builder builder_;
  std::vector<float> values_;  // of the weight that was made last
  float scale_ = 1;
};

}  // namespace

Graph residual_graph(const ResidualSize& size, std::mt19937_64& random) { return Maker(size, random).make(); }

}  // namespace qstep::test
