// What is special about Winograd's algorithm along rows: groups of outputs that leave the image, rows of the image that
// several rows of outputs share, sums that only extreme data fills, and weights at the edge of what the kernel takes.
// Every test compares int32 accumulators, then codes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <string>

#include "kernels/layer_case.h"
#include "qstep/kernels/winograd_rows/transform.h"

namespace qstep::kernels::test {
namespace {

using core::Window;

constexpr int16_t largest_weight = INT16_MAX / winograd_rows::unit;
constexpr int32_t largest_bound = std::numeric_limits<int32_t>::max() / winograd_rows::unit;

/// True where a kernel takes the layer; all that do are exact.
bool is_taken(const LayerCase& layer, int parts, std::mt19937& random) {
  bool taken = false;
  for (const Conv2dKernel& kernel : conv2d_kernels()) {
    if (!kernel.name.starts_with("winograd_rows") || !is_supported(kernel.isa)) continue;
    if (!kernel.supports(layer.conv2d())) continue;
    EXPECT_EQ(difference(kernel, layer, parts, random), "");
    taken = true;
  }
  return taken;
}

oracle::Convolution shape_of(int64_t channels, int64_t height, int64_t width, int64_t outputs) {
  return {1, channels, height, width, outputs, 1, Window{{7, 7}, {2, 2}, {3, 3, 3, 3}, {1, 1}}};
}

TEST(WinogradRows, EveryWidth) {
  const unsigned seed = 20261125;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto below = [&](int n) { return static_cast<int32_t>(random() % static_cast<unsigned>(n)); };
  for (int64_t width = 1; width <= 120; width += width < 70 ? 1 : 7) {  // outputs of 15 groups and more
    oracle::Convolution shape = shape_of(1 + below(4), 1 + below(16), width, 1 + below(40));
    shape.batch = 1 + below(3);
    shape.window.stride[0] = 1 + below(3);
    for (int32_t& padding : shape.window.padding) padding = below(4);
    LayerCase layer(shape, {2 + below(7), 2 + below(7)}, all_patterns[below(5)], random);
    layer.sliced = below(2) == 0;
    EXPECT_EQ(is_taken(layer, 1 + below(4), random), is_supported(Isa::avx2));
    ASSERT_FALSE(HasFailure()) << layer.describe();
  }
}

TEST(WinogradRows, EveryKernelAndChannelTail) {
  const unsigned seed = 20261126;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int32_t rows = 1; rows <= 8; ++rows) {
    for (int64_t channels = 1; channels <= 5; ++channels) {
      for (const int64_t outputs : {1, 7, 8, 9, 15, 16, 17, 33}) {
        oracle::Convolution shape = shape_of(channels, rows % 3 + 5, 10 + outputs % 5, outputs);
        shape.window.kernel[0] = rows;
        LayerCase layer(shape, {8, 8}, Pattern::random, random);
        layer.sliced = outputs % 2 == 0;
        const bool expected = rows <= 7 && channels <= 4;
        EXPECT_EQ(is_taken(layer, 2, random), expected && is_supported(Isa::avx2));
        ASSERT_FALSE(HasFailure()) << layer.describe();
      }
    }
  }
}

// For every position the codes that make its data largest, in every second group, with the weights that do the same.
TEST(WinogradRows, LargestDataAndWeightsOfEitherSign) {
  const unsigned seed = 20261127;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  LayerCase layer(shape_of(3, 9, 64, 5), {8, 8}, Pattern::all_positive, random);
  std::ranges::fill(layer.bias, 0);
  constexpr int64_t period = 4 * winograd_rows::group_outputs;  // columns of two groups
  for (const auto& data_factors : winograd_rows::data_matrix) {
    for (const auto& weight_factors : winograd_rows::weight_matrix) {
      for (const int data_sign : {1, -1}) {
        for (size_t i = 0; i < layer.input.size(); ++i) {
          const int64_t column = (static_cast<int64_t>(i) % layer.shape.width + 3) % period;
          const int64_t pair = column / winograd_rows::phases;
          const bool is_read = pair < winograd_rows::group_pairs;
          const int factor = is_read ? data_factors[pair][column % winograd_rows::phases] : 0;
          layer.input[i] = data_sign * factor > 0 ? 255 : 0;
        }
        for (const int weight_sign : {1, -1}) {
          for (size_t i = 0; i < layer.weights.size(); ++i) {
            const size_t tap = i / 3 % winograd_rows::kernel_columns;
            const int factor = weight_factors[tap / winograd_rows::phases][tap % winograd_rows::phases];
            layer.weights[i] = static_cast<int16_t>(factor * weight_sign < 0 ? -largest_weight : largest_weight);
          }
          layer.judge();
          EXPECT_EQ(is_taken(layer, 1, random), is_supported(Isa::avx2));
          ASSERT_FALSE(HasFailure());
        }
      }
    }
  }
}

TEST(WinogradRows, TransformedWeightsAtTheEdgeOfInt16) {
  std::mt19937 random(1);
  for (const int sign : {1, -1}) {
    LayerCase layer(shape_of(3, 8, 20, 18), {8, 8}, Pattern::random, random);
    layer.weights.back() = static_cast<int16_t>(sign * largest_weight);
    layer.judge();
    EXPECT_EQ(is_taken(layer, 1, random), is_supported(Isa::avx2));
    layer.weights.back() = static_cast<int16_t>(sign * (largest_weight + 1));
    EXPECT_FALSE(is_taken(layer, 1, random));
  }
}

TEST(WinogradRows, AccumulatorsAtTheEdgeOfInt32) {
  std::mt19937 random(1);
  for (const int sign : {1, -1}) {
    LayerCase layer(shape_of(4, 8, 20, 3), {8, 8}, sign > 0 ? Pattern::all_positive : Pattern::all_negative, random);
    layer.zero_code = 0;
    std::ranges::fill(layer.bias, 0);
    std::ranges::fill(layer.bias, sign * (largest_bound - static_cast<int32_t>(accumulator_bound(layer.gemm()))));
    layer.judge();
    ASSERT_EQ(accumulator_bound(layer.gemm()), largest_bound);
    EXPECT_EQ(is_taken(layer, 1, random), is_supported(Isa::avx2));
    for (int32_t& b : layer.bias) b += sign;
    EXPECT_FALSE(is_taken(layer, 1, random));
  }
}

TEST(WinogradRows, TakesOnlyWhatItConvolves) {
  std::mt19937 random(1);
  const auto taken = [&](auto change) {
    oracle::Convolution shape = shape_of(4, 12, 14, 8);
    change(shape);
    return is_taken(LayerCase(shape, {8, 8}, Pattern::random, random), 1, random);
  };
  EXPECT_EQ(taken([](auto&) {}), is_supported(Isa::avx2));
  EXPECT_EQ(taken([](auto& s) { s.window.stride[0] = 9; }), is_supported(Isa::avx2));
  EXPECT_FALSE(taken([](auto& s) { s.window.stride[1] = 1; }));
  EXPECT_FALSE(taken([](auto& s) { s.window.dilation[0] = 2; }));
  EXPECT_FALSE(taken([](auto& s) { s.window.dilation[1] = 2; }));
  EXPECT_FALSE(taken([](auto& s) { s.window.kernel[1] = 5; }));
  EXPECT_FALSE(taken([](auto& s) { s.groups = 2; }));
}

TEST(WinogradRows, IsChosenForAStem) {
  std::mt19937 random(1);
  for (const int weight_bits : {2, 4, 8}) {
    const LayerCase layer(shape_of(3, 20, 20, 64), {8, weight_bits}, Pattern::random, random);
    EXPECT_EQ(choose_conv2d(layer.conv2d(), Isa::avx2).name, "winograd_rows_avx2_madd16");
  }
}

}  // namespace
}  // namespace qstep::kernels::test
