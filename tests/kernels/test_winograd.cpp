// What is special about the Winograd kernels: patches that leave the image, sums that only extreme data fills, and weights
// at the edge of what a kernel takes. Every test compares int32 accumulators, then codes.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/layer_case.h"

namespace qstep::kernels::test {
namespace {

using core::Window;

constexpr int64_t enough_channels = 64;  // for every instruction set
constexpr int32_t strides[] = {1, 2};

std::vector<const Conv2dKernel*> winograd_kernels() {
  std::vector<const Conv2dKernel*> result;
  for (const Conv2dKernel& kernel : conv2d_kernels()) {
    if (kernel.name.starts_with("winograd") && is_supported(kernel.isa)) result.push_back(&kernel);
  }
  return result;
}

oracle::Convolution shape_of(int64_t channels, int64_t height, int64_t width, int64_t outputs, int32_t stride = 1) {
  return {1, channels, height, width, outputs, 1, Window{{3, 3}, {stride, stride}, {1, 1, 1, 1}, {1, 1}}};
}

/// Those that take the layer are exact; returns how many did.
int expect_exact(const LayerCase& layer, int parts, std::mt19937& random) {
  int used = 0;
  for (const Conv2dKernel* kernel : winograd_kernels()) {
    if (!kernel->supports(layer.conv2d())) continue;
    EXPECT_EQ(difference(*kernel, layer, parts, random), "");
    ++used;
  }
  return used;
}

/// Sets every code, by row and column.
template <class Code>
void fill(LayerCase& layer, Code code) {
  const oracle::Convolution& s = layer.shape;
  for (size_t i = 0; i < layer.input.size(); ++i) {
    const auto pixel = static_cast<int64_t>(i) % (s.height * s.width);
    layer.input[i] = static_cast<uint8_t>(code(pixel / s.width, pixel % s.width));
  }
}

TEST(Winograd, EveryImageSizeAndPadding) {
  const unsigned seed = 20261101;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto below = [&](int n) { return static_cast<int32_t>(random() % static_cast<unsigned>(n)); };
  for (const int32_t stride : strides) {
    for (int64_t height = 1; height <= 7 * stride; ++height) {
      for (int64_t width = 1; width <= 7 * stride; ++width) {
        oracle::Convolution shape = shape_of(enough_channels, height, width, 1 + below(20), stride);
        shape.batch = 1 + below(3);
        for (int32_t& padding : shape.window.padding) padding = below(4);
        LayerCase layer(shape, {stride == 1 ? 4 : 8, stride == 1 ? 4 : 8}, Pattern::random, random);
        layer.sliced = below(2) == 0;
        expect_exact(layer, 1 + below(3), random);
        ASSERT_FALSE(HasFailure()) << layer.describe();
      }
    }
  }
}

TEST(Winograd, EveryChannelTail) {
  const unsigned seed = 20261102;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (const Widths widths : {Widths{8, 8}, Widths{4, 4}}) {
    for (int64_t channels = 16; channels <= enough_channels + 33; ++channels) {
      for (const int32_t stride : strides) {
        LayerCase layer(shape_of(channels, 3, 4, channels % 35 + 1, stride), widths, Pattern::random, random);
        layer.sliced = channels % 2 == 0;
        const bool taken = expect_exact(layer, 1, random) > 0;
        if (stride == 2 && widths.weight == 8) {
          EXPECT_EQ(taken, channels % 16 == 0 && is_supported(Isa::avx2));
        }
        ASSERT_FALSE(HasFailure()) << layer.describe();
      }
    }
    for (int64_t outputs = 36; outputs <= 65; ++outputs) {
      for (const int32_t stride : strides) {
        expect_exact(LayerCase(shape_of(enough_channels, 3, 4, outputs, stride), widths, Pattern::random, random), 1,
                     random);
      }
      ASSERT_FALSE(HasFailure()) << outputs;
    }
  }
}

TEST(Winograd, SeveralChunksInRanges) {
  const unsigned seed = 20261103;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (const int parts : {1, 2, 5}) {
    for (const int64_t outputs : {5, 200}) {  // ranges of patches and, with few patches, of panels
      oracle::Convolution shape = shape_of(enough_channels, outputs == 5 ? 35 : 3, 33, outputs);
      shape.batch = 2;
      EXPECT_GE(expect_exact(LayerCase(shape, {6, 3}, Pattern::random, random), parts, random),
                is_supported(Isa::avx2) ? 1 : 0);
      shape.window.stride[0] = shape.window.stride[1] = 2;
      shape.height *= 2;
      shape.width *= 2;
      EXPECT_EQ(expect_exact(LayerCase(shape, {8, 8}, Pattern::random, random), parts, random),
                is_supported(Isa::avx2) ? 1 : 0);
    }
  }
}

TEST(Winograd, LargestDataOfEitherSign) {
  const unsigned seed = 20261104;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (const Widths widths : {Widths{8, 8}, Widths{6, 4}, Widths{6, 3}, Widths{4, 4}, Widths{2, 2}}) {
    for (const auto& [channels, stride] : {std::pair{66, 1}, {200, 1}, {80, 2}, {208, 2}}) {
      for (const Pattern pattern : all_patterns) {
        LayerCase layer(shape_of(channels, 6, 7, 5, stride), widths, pattern, random);
        // Squares of two by two make differences of +-2 quant_max; a flat image makes the largest sums.
        for (const int flat : {0, 1}) {
          for (const int64_t phase : {0, 1}) {
            fill(layer,
                 [&](int64_t y, int64_t x) { return flat + ((y + phase) / 2 + x / 2) % 2 > 0 ? layer.quant_max : 0; });
            layer.judge();
            expect_exact(layer, 1, random);
            ASSERT_FALSE(HasFailure()) << "A" << widths.activation << "W" << widths.weight;
          }
        }
      }
    }
  }
}

/// A layer whose kernels are all `taps`; others where channel % 4 is not below `channels_of_four`.
LayerCase with_kernels(const std::array<int16_t, 9>& taps, int channels_of_four, int activation, std::mt19937& random) {
  LayerCase layer(shape_of(enough_channels, 5, 5, 3), {activation, 8}, Pattern::all_positive, random);
  for (size_t i = 0; i < layer.weights.size(); ++i) {
    const auto channel = static_cast<int>(i % enough_channels);
    const size_t tap = i / enough_channels % 9;
    layer.weights[i] = channel % 4 < channels_of_four ? taps[tap] : int16_t{0};
  }
  layer.judge();
  return layer;
}

bool takes(std::string_view name, const LayerCase& layer) {
  const auto kernels = winograd_kernels();
  return std::ranges::any_of(kernels,
                             [&](const Conv2dKernel* k) { return k->name == name && k->supports(layer.conv2d()); });
}

TEST(Winograd, TransformedWeightsAtTheEdgeOfInt8) {
  std::mt19937 random(1);
  // The sum of all taps is the largest transformed weight.
  for (const auto& [last_tap, fits] : {std::pair<int, bool>{15, true}, {16, false}}) {
    LayerCase layer = with_kernels({14, 14, 14, 14, 14, 14, 14, 14, static_cast<int16_t>(last_tap)}, 1, 4, random);
    EXPECT_EQ(takes("winograd_avx512vnni_dpbusd", layer), fits && is_supported(Isa::avx512vnni));
    EXPECT_EQ(takes("winograd_avx2_maddubs16", layer), fits && is_supported(Isa::avx2));
    expect_exact(layer, 1, random);
  }
  for (const auto& [last_tap, fits] : {std::pair<int, bool>{-16, true}, {-17, false}}) {
    LayerCase layer =
        with_kernels({-14, -14, -14, -14, -14, -14, -14, -14, static_cast<int16_t>(last_tap)}, 1, 4, random);
    EXPECT_EQ(takes("winograd_avx2_maddubs16", layer), fits && is_supported(Isa::avx2));
    expect_exact(layer, 1, random);
  }
}

TEST(Winograd, PairsAtTheEdgeOfInt16) {
  std::mt19937 random(1);
  // 6-bit codes make data up to 252. A lane adds two channels: 252 * (65 + 65) = 32760 fits, 252 * (66 + 66) does not.
  for (const auto& [sum, fits] : {std::pair<int, bool>{65, true}, {66, false}}) {
    LayerCase layer = with_kernels({8, 8, 8, 8, 8, 8, 8, 8, static_cast<int16_t>(sum - 64)}, 2, 6, random);
    EXPECT_EQ(takes("winograd_avx2_maddubs16", layer), fits && is_supported(Isa::avx2));
    EXPECT_EQ(takes("winograd_avx512vnni_dpbusd", layer), is_supported(Isa::avx512vnni));
    expect_exact(layer, 1, random);
  }
}

TEST(Winograd, CodesOfMoreThanSixBitsNeedWords) {
  std::mt19937 random(1);
  LayerCase layer(shape_of(enough_channels, 5, 5, 3), {6, 2}, Pattern::random, random);
  EXPECT_EQ(takes("winograd_avx2_maddubs16", layer), is_supported(Isa::avx2));
  layer.quant_max = 64;
  EXPECT_FALSE(takes("winograd_avx2_maddubs16", layer));
  EXPECT_FALSE(takes("winograd_avx512vnni_dpbusd", layer));
  expect_exact(layer, 1, random);
}

TEST(Winograd, AccumulatorsJustBelowTwoToThe29) {
  std::mt19937 random(1);
  for (const int sign : {1, -1}) {
    LayerCase layer = with_kernels({105, -117, 91, 102, -93, 94, 106, -101, 92}, 4, 8, random);
    layer.zero_code = 0;
    std::ranges::fill(layer.bias, 0);
    const auto largest = static_cast<int32_t>(accumulator_bound(layer.gemm()));
    std::ranges::fill(layer.bias, sign * ((1 << 29) - 1 - largest));
    layer.judge();
    ASSERT_EQ(accumulator_bound(layer.gemm()), (1 << 29) - 1);
    EXPECT_EQ(expect_exact(layer, 1, random) > 0, is_supported(Isa::avx2));
    for (int32_t& b : layer.bias) b += sign;
    EXPECT_FALSE(takes("winograd_avx2_madd16", layer));
  }
}

TEST(Winograd, TakesOnlyWhatItConvolves) {
  std::mt19937 random(1);
  const auto taken = [&](oracle::Convolution shape) {
    return expect_exact(LayerCase(shape, {4, 4}, Pattern::random, random), 1, random) > 0;
  };
  const oracle::Convolution ordinary = shape_of(enough_channels, 6, 6, 8);
  EXPECT_EQ(taken(ordinary), is_supported(Isa::avx2));
  const auto changed = [&](auto change) {
    oracle::Convolution shape = ordinary;
    change(shape);
    return shape;
  };
  EXPECT_FALSE(taken(changed([](auto& s) { s.window.stride[0] = 2; })));
  EXPECT_FALSE(taken(changed([](auto& s) { s.window.stride[0] = s.window.stride[1] = 3; })));
  EXPECT_FALSE(taken(changed([](auto& s) { s.window.dilation[1] = 2; })));
  EXPECT_FALSE(taken(changed([](auto& s) { s.window.kernel[1] = 1; })));
  EXPECT_FALSE(taken(changed([](auto& s) { s.groups = 2; })));
  EXPECT_FALSE(taken(shape_of(15, 6, 6, 8)));
}

/// An error of one unit in one accumulator, which all policies' codes may hide, is reported.
TEST(Winograd, OneUnitInOneAccumulatorIsSeen) {
  std::mt19937 random(1);
  for (const int32_t stride : strides) {
    const LayerCase layer(shape_of(enough_channels, 5, 5, 3, stride), {8, 8}, Pattern::random, random);
    for (const size_t planted : {size_t{0}, layer.accumulators.size() / 2, layer.accumulators.size() - 1}) {
      LayerCase wrong = layer;
      ++wrong.accumulators[planted];
      for (const Conv2dKernel* kernel : winograd_kernels()) {
        if (!kernel->supports(layer.conv2d())) continue;
        EXPECT_NE(difference(*kernel, wrong, 1, random).find("accumulators: element"), std::string::npos)
            << kernel->name;
      }
    }
  }
}

}  // namespace
}  // namespace qstep::kernels::test
