#include "kernels/layer_case.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/strided.h"
#include "oracle/requantize.h"
#include "qstep/kernels/aligned_vector.h"

namespace qstep::kernels::test {

using core::Multiplier;
using core::RequantPolicy;

namespace {

int16_t make_weight(Pattern pattern, size_t index, int bit_width, std::mt19937& random) {
  const int largest = (1 << (bit_width - 1)) - 1;
  const int smallest = -(1 << (bit_width - 1));
  switch (pattern) {
    case Pattern::random:
      break;
    case Pattern::all_positive:
      return static_cast<int16_t>(largest);
    case Pattern::all_negative:
      return static_cast<int16_t>(smallest);
    case Pattern::alternating:
      return static_cast<int16_t>(index % 2 == 0 ? largest : smallest);
    case Pattern::pairs:
      return static_cast<int16_t>(index / 2 % 2 == 0 ? largest : smallest);
  }
  return static_cast<int16_t>(std::uniform_int_distribution<int>(smallest, largest)(random));
}

struct Requantized {
  std::string name;
  RequantPolicy policy;
  std::vector<Multiplier> multipliers;
  int32_t zero_point, clamp_min, clamp_max;
};

/// Parameters that spread the accumulators over the codes and beyond both clamps.
std::vector<Requantized> requantizations(const LayerCase& layer) {
  int64_t largest = 1;
  for (const int64_t acc : layer.accumulators) largest = std::max(largest, std::abs(acc));
  const double factor = std::min(300.0 / static_cast<double>(largest), 1000.0);
  const auto channels = static_cast<size_t>(layer.shape.out_channels);
  Requantized per_channel{"exact per channel", RequantPolicy::exact, {}, 100, 0, 255};
  Requantized gemmlowp{"gemmlowp per channel", RequantPolicy::gemmlowp, {}, 7, 3, 200};
  for (size_t c = 0; c < channels; ++c) {
    const double channel_factor = factor * (c % 3 == 2 ? -0.7 : 1.0 - 0.01 * static_cast<double>(c % 50));
    per_channel.multipliers.push_back(core::exact_multiplier(channel_factor));
    gemmlowp.multipliers.push_back(core::gemmlowp_multiplier(channel_factor));
  }
  const auto shift = static_cast<int32_t>(std::lround(-std::log2(factor)));
  return {per_channel,
          gemmlowp,
          {"exact", RequantPolicy::exact, {core::exact_multiplier(factor)}, 0, 2, 15},
          {"exact, ties", RequantPolicy::exact, {core::exact_multiplier(std::exp2(-shift))}, 101, 0, 255},
          {"exact, beyond int16", RequantPolicy::exact, {core::exact_multiplier(-200 * factor)}, 3, 0, 255},
          {"shift", RequantPolicy::shift, {{1, shift}}, 128, 0, 255}};
}

std::vector<int64_t> requantize(const LayerCase& layer, const Requantized& r) {
  std::vector<int64_t> codes(layer.accumulators.size());
  const auto pixels = static_cast<size_t>(layer.shape.out_height() * layer.shape.out_width());
  for (size_t i = 0; i < codes.size(); ++i) {
    const size_t channel = i / pixels % static_cast<size_t>(layer.shape.out_channels);
    const Multiplier m = r.multipliers[r.multipliers.size() == 1 ? 0 : channel];
    const oracle::Wide code = oracle::requantize(layer.accumulators[i], m, r.policy) + r.zero_point;
    codes[i] = static_cast<int64_t>(std::clamp<oracle::Wide>(code, r.clamp_min, r.clamp_max));
  }
  return codes;
}

/// [0, count) cut into at most `parts` ranges, in random order.
std::vector<Range> split(int64_t count, int parts, std::mt19937& random) {
  std::vector<int64_t> cuts{0, count};
  for (int i = 1; i < parts; ++i) cuts.push_back(std::uniform_int_distribution<int64_t>(0, count)(random));
  std::ranges::sort(cuts);
  std::vector<Range> ranges;
  for (size_t i = 1; i < cuts.size(); ++i) ranges.push_back({cuts[i - 1], cuts[i]});
  std::ranges::shuffle(ranges, random);
  return ranges;
}

/// The two operations behind one face: a packed kernel that is given input and output in memory.
struct PackedLayer {
  std::unique_ptr<PackedConv2d> conv2d;
  std::unique_ptr<PackedGemm> gemm;

  int64_t work_items(const ImageLayout& output) const {
    return conv2d ? conv2d->work_items(output) : gemm->work_items(output.batch);
  }
  size_t scratch_bytes(const ImageLayout& output) const {
    return conv2d ? conv2d->scratch_bytes(output) : gemm->scratch_bytes(output.batch);
  }

  void run(const Conv2dArguments& a, Range items, std::byte* scratch) const {
    if (conv2d) return conv2d->run(a, items, scratch);
    gemm->run({a.input, a.input_layout.batch, a.input_layout.image_stride, a.output, a.output_layout.image_stride},
              items, scratch);
  }
};

template <class T>
std::string run_and_compare(const PackedLayer& packed, const LayerCase& layer, const std::vector<int64_t>& expected,
                            int parts, std::mt19937& random) {
  const oracle::Convolution& s = layer.shape;
  Strided<uint8_t> input(make_layout(s.batch, s.height, s.width, s.in_channels, layer.sliced), 255);
  input.assign(layer.input);
  Strided<T> output(make_layout(s.batch, s.out_height(), s.out_width(), s.out_channels, layer.sliced), T{91});
  Conv2dArguments arguments{
      .input = input.data(), .input_layout = input.layout(), .output = {}, .output_layout = output.layout()};
  if constexpr (std::is_same_v<T, uint8_t>) {
    arguments.output.codes = output.data();
  } else {
    arguments.output.accumulators = output.data();
  }
  for (const Range range : split(packed.work_items(output.layout()), parts, random)) {
    AlignedVector<std::byte> scratch(packed.scratch_bytes(output.layout()), std::byte{0xCD});
    packed.run(arguments, range, scratch.data());
  }
  return output.difference(expected);
}

template <class Pack>
std::string difference_of(std::string_view name, Pack pack, const LayerCase& layer, int parts, std::mt19937& random) {
  const std::string raw = run_and_compare<int32_t>(pack(Requantization{}), layer, layer.accumulators, parts, random);
  if (!raw.empty()) return fmt::format("{}, accumulators: {} ({})", name, raw, layer.describe());
  for (const Requantized& r : requantizations(layer)) {
    const Requantization requantization{r.policy, r.multipliers, r.zero_point, r.clamp_min, r.clamp_max};
    const std::string codes =
        run_and_compare<uint8_t>(pack(requantization), layer, requantize(layer, r), parts, random);
    if (!codes.empty()) return fmt::format("{}, {}: {} ({})", name, r.name, codes, layer.describe());
  }
  return "";
}

template <class Pack>
std::string difference_of(std::string_view name, Pack pack, const SeveralSums& sums, int parts, std::mt19937& random) {
  const LayerCase& layer = sums.layers.front();
  const std::string steps = run_and_compare<int32_t>(pack(0, 0), layer, sums.steps, parts, random);
  if (!steps.empty()) return fmt::format("{}, steps: {} ({})", name, steps, layer.describe());
  constexpr int32_t zero_point = 90;
  constexpr int32_t clamp_max = 200;
  std::vector<int64_t> expected = sums.steps;
  for (int64_t& step : expected) step = std::clamp<int64_t>(step + zero_point, 0, clamp_max);
  const std::string codes = run_and_compare<uint8_t>(pack(zero_point, clamp_max), layer, expected, parts, random);
  return codes.empty() ? "" : fmt::format("{}, codes: {} ({})", name, codes, layer.describe());
}

}  // namespace

SeveralSums::SeveralSums(const oracle::Convolution& shape, int sums, Widths widths, std::mt19937& random) {
  const auto channels = static_cast<size_t>(shape.out_channels);
  std::uniform_int_distribution<int32_t> multiplier(-(1 << 20), 1 << 20);
  std::uniform_int_distribution<int64_t> constant(-(int64_t{1} << 30), int64_t{1} << 30);
  for (int k = 0; k < sums; ++k) {
    layers.emplace_back(shape, widths, Pattern::random, random);
    LayerCase& layer = layers.back();
    layer.zero_code = layers.front().zero_code;
    layer.input = layers.front().input;
    std::ranges::fill(layer.bias, 0);
    layer.judge();
    weights.insert(weights.end(), layer.weights.begin(), layer.weights.end());
    for (size_t c = 0; c < channels; ++c) multipliers.push_back(multiplier(random));
  }
  for (size_t c = 0; c < channels; ++c) {
    constants.push_back(constant(random));
    shifts.push_back(static_cast<int8_t>(24 + random() % 6));
  }
  const auto pixels = static_cast<size_t>(shape.out_height() * shape.out_width());
  for (size_t i = 0; i < layers.front().accumulators.size(); ++i) {
    const size_t c = i / pixels % channels;
    oracle::Wide total = constants[c];
    for (size_t k = 0; k < layers.size(); ++k) {
      total += oracle::Wide{multipliers[k * channels + c]} * layers[k].accumulators[i];
    }
    steps.push_back(static_cast<int64_t>(oracle::nearest_even(total, oracle::power_of_two(shifts[c]))));
  }
}

Conv2dProblem SeveralSums::conv2d() const {
  Conv2dProblem problem = layers.front().conv2d();
  problem.weights = weights;
  problem.bias = {};
  problem.requantization.combination = {multipliers, constants, shifts};
  return problem;
}

GemmProblem SeveralSums::gemm() const { return as_gemm(conv2d()); }

std::string difference(const Conv2dKernel& kernel, const SeveralSums& layer, int parts, std::mt19937& random) {
  const auto pack = [&](int32_t zero_point, int32_t clamp_max) {
    Conv2dProblem problem = layer.conv2d();
    problem.requantization.zero_point = zero_point;
    problem.requantization.clamp_max = clamp_max;
    return PackedLayer{kernel.pack(problem), nullptr};
  };
  return difference_of(kernel.name, pack, layer, parts, random);
}

std::string difference(const GemmKernel& kernel, const SeveralSums& layer, int parts, std::mt19937& random) {
  const auto pack = [&](int32_t zero_point, int32_t clamp_max) {
    GemmProblem problem = layer.gemm();
    problem.requantization.zero_point = zero_point;
    problem.requantization.clamp_max = clamp_max;
    return PackedLayer{nullptr, kernel.pack(problem)};
  };
  return difference_of(kernel.name, pack, layer, parts, random);
}

core::Window random_window(int32_t rows, int32_t columns, std::mt19937& random) {
  const auto below = [&](int32_t n) { return static_cast<int32_t>(random() % static_cast<unsigned>(n)); };
  return {{1 + below(rows), 1 + below(columns)},
          {1 + below(3), 1 + below(3)},
          {below(3), below(3), below(3), below(3)},
          {1 + below(2), 1 + below(2)}};
}

LayerCase::LayerCase(const oracle::Convolution& s, Widths widths, Pattern pattern, std::mt19937& random)
    : shape(s), quant_max((1 << widths.activation) - 1) {
  zero_code = std::uniform_int_distribution<int32_t>(0, quant_max)(random);
  const int64_t depth = int64_t{s.window.kernel[0]} * s.window.kernel[1] * (s.in_channels / s.groups);
  weights.resize(static_cast<size_t>(s.out_channels * depth));
  for (size_t i = 0; i < weights.size(); ++i) {
    weights[i] = make_weight(pattern, i % static_cast<size_t>(depth), widths.weight, random);
  }
  bias.resize(static_cast<size_t>(s.out_channels));
  for (int32_t& b : bias) b = std::uniform_int_distribution<int32_t>(-5000, 5000)(random);
  input.resize(static_cast<size_t>(s.batch * s.in_channels * s.height * s.width));
  std::uniform_int_distribution<int> codes(0, quant_max);
  for (uint8_t& code : input) code = static_cast<uint8_t>(pattern == Pattern::random ? codes(random) : quant_max);
  if (pattern != Pattern::random) zero_code = random() % 2 == 0 ? 0 : quant_max / 2;
  judge();
}

void LayerCase::judge() {
  std::vector<int64_t> centred(input.size());
  for (size_t i = 0; i < input.size(); ++i) centred[i] = input[i] - zero_code;
  accumulators = oracle::convolve(shape, centred, weights, bias);
}

Conv2dProblem LayerCase::conv2d() const {
  return {.in_channels = shape.in_channels,
          .out_channels = shape.out_channels,
          .groups = shape.groups,
          .window = shape.window,
          .quant_max = quant_max,
          .zero_code = zero_code,
          .weights = weights,
          .bias = bias,
          .requantization = {}};
}

GemmProblem LayerCase::gemm() const { return as_gemm(conv2d()); }

std::string LayerCase::describe() const {
  const core::Window& w = shape.window;
  return fmt::format(
      "input {}x{}x{}x{}, {} outputs, {} groups, kernel {}x{}, stride {}x{}, padding {},{},{},{}, dilation {}x{}, "
      "quant_max {}, zero_code {}{}",
      shape.batch, shape.in_channels, shape.height, shape.width, shape.out_channels, shape.groups, w.kernel[0],
      w.kernel[1], w.stride[0], w.stride[1], w.padding[0], w.padding[1], w.padding[2], w.padding[3], w.dilation[0],
      w.dilation[1], quant_max, zero_code, sliced ? ", sliced" : "");
}

std::string difference(const Conv2dKernel& kernel, const LayerCase& layer, int parts, std::mt19937& random) {
  const auto pack = [&](const Requantization& requantization) {
    Conv2dProblem problem = layer.conv2d();
    problem.requantization = requantization;
    return PackedLayer{kernel.pack(problem), nullptr};
  };
  return difference_of(kernel.name, pack, layer, parts, random);
}

std::string difference(const GemmKernel& kernel, const LayerCase& layer, int parts, std::mt19937& random) {
  const auto pack = [&](const Requantization& requantization) {
    GemmProblem problem = layer.gemm();
    problem.requantization = requantization;
    return PackedLayer{nullptr, kernel.pack(problem)};
  };
  return difference_of(kernel.name, pack, layer, parts, random);
}

}  // namespace qstep::kernels::test
