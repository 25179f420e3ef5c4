#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "kernels/layer_case.h"
#include "qstep/core/error.h"

namespace qstep::kernels::test {
namespace {

using core::Window;

/// Every kernel of the table that this CPU runs and that takes the problem; returns their names.
std::set<std::string_view> expect_exact(const LayerCase& layer, int parts, std::mt19937& random) {
  std::set<std::string_view> used;
  for (const Conv2dKernel& kernel : conv2d_kernels()) {
    if (!is_supported(kernel.isa) || !kernel.supports(layer.conv2d())) continue;
    used.insert(kernel.name);
    EXPECT_EQ(difference(kernel, layer, parts, random), "");
  }
  return used;
}

TEST(Conv2d, EveryBitWidthAndPattern) {
  const unsigned seed = 20260211;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const oracle::Convolution ordinary{1, 13, 6, 7, 18, 1, Window{{3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}}};
  const oracle::Convolution wide{1, 69, 6, 7, 18, 1, Window{{3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}}};
  const oracle::Convolution halving{1, 48, 6, 7, 18, 1, Window{{3, 3}, {2, 2}, {1, 1, 1, 1}, {1, 1}}};
  const oracle::Convolution pixels{1, 69, 6, 7, 82, 1, Window{}};
  const oracle::Convolution pairs{1, 16, 5, 7, 250, 1, Window{{3, 2}, {1, 2}, {1, 1, 1, 1}, {1, 1}}};
  const oracle::Convolution depthwise{1, 37, 6, 7, 37, 37, Window{{3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}}};
  const oracle::Convolution strided{1, 81, 5, 9, 81, 81, Window{{3, 3}, {2, 2}, {1, 1, 1, 1}, {1, 1}}};
  const oracle::Convolution stem{1, 3, 9, 8, 18, 1, Window{{5, 7}, {2, 2}, {2, 3, 2, 3}, {1, 1}}};
  const oracle::Convolution deep{1, 32, 6, 7, 66, 1, Window{{3, 1}, {1, 2}, {1, 0, 1, 0}, {1, 1}}};
  std::set<std::string_view> used;
  for (int a = 2; a <= 8; ++a) {
    for (int w = 2; w <= 8; ++w) {
      for (const Pattern pattern : all_patterns) {
        used.merge(expect_exact(LayerCase(ordinary, {a, w}, pattern, random), 1, random));
        used.merge(expect_exact(LayerCase(wide, {a, w}, pattern, random), 1, random));
        used.merge(expect_exact(LayerCase(halving, {a, w}, pattern, random), 1, random));
        used.merge(expect_exact(LayerCase(depthwise, {a, w}, pattern, random), 1, random));
        used.merge(expect_exact(LayerCase(strided, {a, w}, pattern, random), 1, random));
        used.merge(expect_exact(LayerCase(stem, {a, w}, pattern, random), 2, random));
        used.merge(expect_exact(LayerCase(deep, {a, w}, pattern, random), 2, random));
        ASSERT_FALSE(HasFailure()) << "A" << a << "W" << w;
      }
    }
  }
  for (const Pattern pattern : all_patterns) {
    used.merge(expect_exact(LayerCase(pixels, {8, 8}, pattern, random), 1, random));
    used.merge(expect_exact(LayerCase(pairs, {2, 2}, pattern, random), 1, random));
  }
  for (const Conv2dKernel& kernel : conv2d_kernels()) {
    EXPECT_TRUE(used.contains(kernel.name) || !is_supported(kernel.isa)) << kernel.name << " was never used";
  }
}

/// Weights less an integer zero point may be twice as large as an int8.
TEST(Conv2d, WeightsBeyondInt8) {
  const unsigned seed = 20261123;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const oracle::Convolution shapes[] = {
      {1, 69, 6, 7, 18, 1, Window{{3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}}},
      {1, 69, 6, 7, 34, 1, Window{{1, 1}, {2, 2}, {0, 0, 0, 0}, {1, 1}}},
      {1, 69, 6, 7, 114, 1, Window{{1, 1}, {2, 2}, {0, 0, 0, 0}, {1, 1}}},
      {1, 37, 6, 7, 37, 37, Window{{3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}}},
      {1, 37, 6, 7, 37, 37, Window{{5, 5}, {2, 2}, {2, 2, 2, 2}, {1, 1}}},
      {1, 3, 9, 8, 18, 1, Window{{5, 7}, {2, 2}, {2, 3, 2, 3}, {1, 1}}},
  };
  for (const oracle::Convolution& shape : shapes) {
    for (const int16_t zero_point : {-127, -1, 2, 100}) {
      for (const int activation : {2, 4, 8}) {
        LayerCase layer(shape, {activation, 8}, Pattern::random, random);
        for (int16_t& w : layer.weights) w = static_cast<int16_t>(w - zero_point);
        layer.judge();
        EXPECT_FALSE(expect_exact(layer, 1, random).empty());
        ASSERT_FALSE(HasFailure()) << layer.describe();
      }
    }
  }
}

TEST(Conv2d, ChosenGeometries) {
  const unsigned seed = 20260212;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const std::map<std::string, oracle::Convolution> cases{
      {"stem: 7x7, stride 2, 3 channels", {1, 3, 20, 22, 16, 1, Window{{7, 7}, {2, 2}, {3, 3, 3, 3}, {1, 1}}}},
      {"stem: one channel", {2, 1, 11, 9, 17, 1, Window{{5, 7}, {1, 2}, {2, 3, 2, 3}, {1, 1}}}},
      {"stem: two channels, dilated rows", {1, 2, 13, 9, 33, 1, Window{{3, 5}, {2, 1}, {2, 2, 2, 2}, {2, 1}}}},
      {"stem: four channels, grouped", {1, 8, 9, 9, 12, 2, Window{{3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}}}},
      {"stem: many columns", {1, 3, 5, 530, 16, 1, Window{{3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}}}},
      {"pointwise", {2, 12, 5, 6, 20, 1, Window{}}},
      {"pointwise, stride 2", {2, 12, 5, 6, 20, 1, Window{{1, 1}, {2, 2}, {0, 0, 0, 0}, {1, 1}}}},
      {"pointwise, several blocks of rows", {2, 90, 19, 13, 91, 1, Window{}}},
      {"pointwise, padded", {1, 12, 3, 3, 5, 1, Window{{1, 1}, {1, 1}, {1, 2, 0, 1}, {1, 1}}}},
      {"pointwise, grouped", {1, 12, 5, 6, 9, 3, Window{}}},
      {"asymmetric padding", {1, 8, 6, 5, 7, 1, Window{{3, 2}, {1, 1}, {2, 0, 0, 1}, {1, 1}}}},
      {"TensorFlow's SAME at stride 2", {1, 8, 8, 8, 7, 1, Window{{3, 3}, {2, 2}, {0, 0, 1, 1}, {1, 1}}}},
      {"dilated", {1, 8, 11, 12, 7, 1, Window{{3, 3}, {1, 1}, {2, 2, 2, 2}, {2, 2}}}},
      {"dilated along one dimension, strided along the other",
       {1, 8, 11, 12, 7, 1, Window{{3, 3}, {2, 1}, {1, 3, 1, 3}, {1, 3}}}},
      {"kernel wider than the image", {1, 4, 2, 3, 6, 1, Window{{5, 5}, {1, 1}, {2, 2, 2, 2}, {1, 1}}}},
      {"windows that lie in the padding altogether", {1, 4, 2, 2, 6, 1, Window{{2, 2}, {1, 1}, {3, 3, 3, 3}, {1, 1}}}},
      {"gaps between windows", {1, 4, 9, 9, 6, 1, Window{{2, 2}, {4, 3}, {0, 0, 0, 0}, {1, 1}}}},
      {"kernel of one row", {1, 5, 4, 9, 6, 1, Window{{1, 7}, {1, 1}, {0, 3, 0, 3}, {1, 1}}}},
      {"groups of odd sizes", {2, 15, 5, 5, 21, 3, Window{{3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}}}},
      {"groups with more than a panel each", {1, 8, 5, 5, 40, 2, Window{{3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}}}},
      {"depthwise with a multiplier of 2", {1, 6, 5, 5, 12, 6, Window{{3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}}}},
      {"depthwise 5x5, stride 2", {2, 40, 9, 10, 40, 40, Window{{5, 5}, {2, 2}, {2, 2, 2, 2}, {1, 1}}}},
      {"depthwise, dilated", {1, 33, 9, 10, 33, 33, Window{{3, 3}, {1, 1}, {2, 2, 2, 2}, {2, 2}}}},
      {"depthwise pointwise", {1, 33, 4, 3, 33, 33, Window{}}},
      {"depthwise 2x2, asymmetric padding", {1, 64, 4, 3, 64, 64, Window{{2, 2}, {1, 1}, {0, 1, 1, 0}, {1, 1}}}},
      {"more columns than rows", {1, 32, 2, 2, 200, 1, Window{{3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}}}},
      {"several blocks of rows", {1, 64, 24, 25, 33, 1, Window{{3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}}}},
      {"depthwise, two blocks of channels and of columns",
       {1, 97, 5, 67, 97, 97, Window{{3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}}}},
      {"no output", {1, 4, 2, 2, 6, 1, Window{{3, 3}, {1, 1}, {0, 0, 0, 0}, {1, 1}}}},
      {"no output, gaps between windows", {1, 32, 4, 1, 6, 1, Window{{1, 3}, {1, 5}, {0, 0, 0, 0}, {1, 1}}}},
      {"empty batch", {0, 4, 5, 5, 6, 1, Window{{3, 3}, {1, 1}, {0, 0, 0, 0}, {1, 1}}}},
  };
  for (const auto& [name, shape] : cases) {
    SCOPED_TRACE(name);
    for (const Widths widths : {Widths{8, 8}, Widths{8, 4}, Widths{4, 4}, Widths{2, 2}}) {
      for (const bool sliced : {false, true}) {
        LayerCase layer(shape, widths, Pattern::random, random);
        layer.sliced = sliced;
        expect_exact(layer, sliced ? 3 : 1, random);
        ASSERT_FALSE(HasFailure());
      }
    }
  }
}

TEST(Conv2d, RandomGeometries) {
  const unsigned seed = 20260213;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto below = [&](int n) { return static_cast<int32_t>(random() % static_cast<unsigned>(n)); };
  for (int trial = 0; trial < 400; ++trial) {
    const int groups = 1 + below(4);
    const bool depthwise = below(3) == 0;
    const int64_t in = depthwise ? 1 + below(70) : groups * (1 + below(20));
    const int64_t out = depthwise ? in : groups * (1 + below(24));
    const Window window = random_window(4, 4, random);
    LayerCase layer({1 + below(2), in, 1 + below(9), 1 + below(9), out, depthwise ? in : groups, window},
                    {2 + below(7), 2 + below(7)}, all_patterns[below(5)], random);
    layer.sliced = below(2) == 0;
    expect_exact(layer, 1 + below(4), random);
    ASSERT_FALSE(HasFailure()) << "trial " << trial;
  }
}

TEST(Conv2d, EveryDepthwiseChannelTail) {
  const unsigned seed = 20260214;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const Window windows[] = {{{3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}},
                            {{3, 3}, {2, 2}, {1, 1, 1, 1}, {1, 1}},
                            {{5, 5}, {1, 1}, {2, 2, 2, 2}, {1, 1}},
                            {{5, 4}, {2, 1}, {2, 2, 2, 2}, {1, 2}},
                            {{1, 1}, {1, 1}, {0, 0, 0, 0}, {1, 1}}};
  for (int64_t channels = 1; channels <= 132; ++channels) {  // blocks have 16, 32 or 64 channels
    const Window& window = windows[channels % 5];
    const oracle::Convolution shape{1, channels, 2 + channels % 7, 4 + channels % 18, channels, channels, window};
    for (const Widths widths : {Widths{8, 8}, Widths{4, 4}}) {
      LayerCase layer(shape, widths, Pattern::random, random);
      layer.sliced = channels % 2 == 0;
      expect_exact(layer, 1, random);
      ASSERT_FALSE(HasFailure());
    }
  }
}

TEST(Conv2d, EveryDepthwiseImageSize) {
  const unsigned seed = 20260216;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int64_t width = 1; width <= 68; width += width == 18 ? 44 : 1) {  // up to 64 columns are staged at a time
    const int64_t height = 1 + width % 6;                                // bands have up to 4 rows
    for (const int32_t kernel : {1, 3, 5, 7}) {
      for (const int32_t stride : {1, 2}) {
        const int32_t padding = kernel / 2;
        const Window window{{kernel, kernel}, {stride, stride}, {padding, padding, padding, padding}, {1, 1}};
        for (const int64_t channels : {17, 48}) {
          for (const int weight_bits : {3, 8}) {
            LayerCase layer({1, channels, height, width, channels, channels, window}, {8, weight_bits}, Pattern::random,
                            random);
            expect_exact(layer, 2, random);
            ASSERT_FALSE(HasFailure());
          }
        }
      }
    }
  }
}

// Two rows of outputs share pairs of codes, several are computed for a block of channels before the next one.
TEST(Conv2d, DepthwiseRowsOfAnyGeometry) {
  const unsigned seed = 20260222;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto below = [&](int n) { return static_cast<int32_t>(random() % static_cast<unsigned>(n)); };
  for (int trial = 0; trial < 200; ++trial) {
    const Window window{{3, 3}, {1 + below(4), 1 + below(2)}, {below(4), below(4), below(4), below(4)}, {1, 1}};
    const int64_t channels = 16 + below(trial % 4 == 0 ? 85 : 33);
    const int64_t width = 1 + below(trial % 8 == 0 ? 140 : 20);
    LayerCase layer({1 + below(3), channels, 1 + below(20), width, channels, channels, window}, {8, 3 + below(6)},
                    Pattern::random, random);
    layer.sliced = below(2) == 0;
    expect_exact(layer, 1 + below(5), random);
    ASSERT_FALSE(HasFailure()) << "trial " << trial;
  }
}

TEST(Conv2d, DepthwiseSumsAtTheEdgeOfInt16) {
  std::mt19937 random(1);
  // 255 * (127 + 1) = 32640 and 255 * 128 = 32640 fit; one more does not: 255 * 129 = 32895.
  for (const auto& [large, small, fits] :
       {std::array{127, 1, 1}, std::array{-128, 0, 1}, std::array{127, 2, 0}, std::array{-128, -1, 0}}) {
    LayerCase layer({1, 32, 3, 3, 32, 32, Window{{2, 1}, {1, 1}, {0, 0, 0, 0}, {1, 1}}}, {8, 8}, Pattern::all_positive,
                    random);
    layer.zero_code = 0;
    for (size_t i = 0; i < layer.weights.size(); ++i) {
      layer.weights[i] = static_cast<int16_t>(i % 2 == 0 ? large : small);
    }
    layer.judge();
    EXPECT_EQ(expect_exact(layer, 1, random).contains("depthwise_avx2_maddubs16"), fits && is_supported(Isa::avx2));
  }
}

TEST(Conv2d, DepthwiseBlocksAtTheEdgeOfInt16) {
  std::mt19937 random(1);
  const Window window{{3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}};
  for (const auto& [first, last] :
       {std::array{127, 1}, std::array{-128, 0}, std::array{127, 2}, std::array{-128, -1}}) {
    for (const int64_t edge : {0, 31, 32, 79}) {  // of 80 channels only this one is at the edge
      LayerCase layer({1, 80, 4, 9, 80, 80, window}, {8, 8}, Pattern::all_positive, random);
      std::ranges::fill(layer.weights, int16_t{1});
      for (int tap = 0; tap < 9; ++tap) layer.weights[static_cast<size_t>(edge * 9 + tap)] = 0;
      layer.weights[static_cast<size_t>(edge * 9)] = static_cast<int16_t>(first);
      layer.weights[static_cast<size_t>(edge * 9 + 8)] = static_cast<int16_t>(last);
      layer.zero_code = 0;
      layer.judge();
      expect_exact(layer, 1, random);
      ASSERT_FALSE(HasFailure());
    }
  }
}

// Rows of windows are read from bands of the image (window_rows.h): of one or several images, of whole rows or of parts.
TEST(Conv2d, BandsOfAnyGeometry) {
  const unsigned seed = 20260217;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto below = [&](int n) { return static_cast<int32_t>(random() % static_cast<unsigned>(n)); };
  for (int trial = 0; trial < 300; ++trial) {
    const int groups = 1 + below(2);
    const int64_t channels[] = {4, 8, 12, 32, 64};
    const Window window{{1 + below(3), 1 + below(4)},
                        {1 + below(3), 1 + below(3)},
                        {below(4), below(4), below(4), below(4)},
                        {1 + below(3), 1 + below(3)}};
    LayerCase layer({1 + below(4), groups * channels[below(5)], 1 + below(12), 1 + below(12), groups * (1 + below(40)),
                     groups, window},
                    {8, 2 + below(7)}, Pattern::random, random);
    layer.sliced = below(2) == 0;
    expect_exact(layer, 1 + below(4), random);
    ASSERT_FALSE(HasFailure()) << "trial " << trial;
  }
}

// Strassen's product takes pairs of rows and of panels; any of them may be without the other one.
TEST(Conv2d, PixelsOfAnyGeometry) {
  const unsigned seed = 20261124;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto below = [&](int n) { return static_cast<int32_t>(random() % static_cast<unsigned>(n)); };
  std::set<std::string_view> used;
  for (int trial = 0; trial < 150; ++trial) {
    const Window window{{1, 1}, {1 + below(3), 1 + below(2)}, {below(2), 0, 0, below(2)}, {1, 1}};
    LayerCase layer({1 + below(3), 60 + below(70), 1 + below(12), 1 + below(10), 60 + below(90), 1, window},
                    {8, 7 + below(2)}, all_patterns[below(5)], random);
    layer.sliced = below(2) == 0;
    used.merge(expect_exact(layer, 1 + below(5), random));
    ASSERT_FALSE(HasFailure()) << "trial " << trial;
  }
  EXPECT_TRUE(used.contains("conv2d_avx2_strassen16") || !is_supported(Isa::avx2));
}

// Sums of weights reach the ends of int16, products of them wrap around in int32.
TEST(Conv2d, PixelsWithTheLargestWeights) {
  std::mt19937 random(1);
  for (const int16_t largest : {8191, 8192}) {
    LayerCase layer({1, 1000, 5, 5, 70, 1, Window{}}, {8, 8}, Pattern::random, random);
    for (size_t i = 0; i < layer.weights.size(); ++i) {
      const bool is_left = i / 1000 % 32 < 16;
      const bool is_first = i % 1000 < 500;
      layer.weights[i] = static_cast<int16_t>(is_left == is_first ? largest : -largest);
    }
    std::ranges::fill(layer.input, uint8_t{255});
    layer.zero_code = 128;
    layer.judge();
    EXPECT_EQ(expect_exact(layer, 1, random).contains("conv2d_avx2_strassen16"),
              largest == 8191 && is_supported(Isa::avx2));
  }
}

// Rows of the table take only layers that gain from products by table; others must be exact all the same.
TEST(Conv2d, ProductsByTableOfAnyGeometry) {
  const unsigned seed = 20260219;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto below = [&](int n) { return static_cast<int32_t>(random() % static_cast<unsigned>(n)); };
  for (int trial = 0; trial < 300; ++trial) {
    const int groups = 1 + below(3);
    const int64_t channels[] = {8, 16, 32, 64, 14, 62};
    const bool is_dilated = below(2) == 0;  // rows of other windows must be whole steps
    const Window window{{1 + below(3), 1 + below(3)},
                        {1 + below(3), 1 + below(2)},
                        {below(3), below(3), below(3), below(3)},
                        {1 + below(2), is_dilated ? 2 : 1}};
    LayerCase layer({1 + below(3), groups * channels[below(is_dilated ? 6 : 4)], 1 + below(12), 1 + below(12),
                     groups * (1 + below(trial % 10 == 0 ? 600 : 90)), groups, window},
                    {1 + below(4), 2}, Pattern::random, random);
    layer.sliced = below(2) == 0;
    for (const Conv2dKernel& kernel : conv2d_kernels()) {
      if (!kernel.name.ends_with("shuffle8") || !is_supported(kernel.isa)) continue;
      EXPECT_EQ(difference(kernel, layer, 1 + below(4), random), "");
    }
    ASSERT_FALSE(HasFailure()) << "trial " << trial;
  }
}

TEST(Conv2d, BandsOfWideAndDeepImages) {
  const unsigned seed = 20260218;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const Window same{{3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}};
  const Window strided{{3, 3}, {2, 2}, {1, 1, 1, 1}, {1, 1}};
  const Window dilated{{3, 3}, {1, 1}, {2, 2, 2, 2}, {2, 2}};
  for (const oracle::Convolution& shape : {
           oracle::Convolution{1, 4, 3, 1100, 5, 1, same},  // parts of rows
           oracle::Convolution{2, 4, 4, 1200, 5, 1, strided}, oracle::Convolution{1, 4, 3, 530, 5, 1, dilated},
           oracle::Convolution{1, 640, 2, 70, 3, 1, same},  // parts of rows for their bytes
           oracle::Convolution{1, 32, 9, 130, 6, 1, same},  // few rows at a time
           oracle::Convolution{40, 32, 4, 3, 6, 1, same},   // many images at a time
           oracle::Convolution{1, 3200, 2, 2, 3, 1, same},  // more than a block for one tile
       }) {
    for (const bool sliced : {false, true}) {
      LayerCase layer(shape, {8, 5}, Pattern::random, random);
      layer.sliced = sliced;
      expect_exact(layer, sliced ? 3 : 1, random);
      ASSERT_FALSE(HasFailure());
    }
  }
}

// Their rows are whole steps of depth without padding.
TEST(Conv2d, FourChannelsAreAStem) {
  std::mt19937 random(1);
  const Window window{{3, 3}, {2, 2}, {1, 1, 1, 1}, {1, 1}};
  for (const int64_t groups : {1, 8}) {  // one image, or groups as in ResNeXt
    const LayerCase layer({1, 4 * groups, 6, 6, 4 * groups, groups, window}, {4, 4}, Pattern::random, random);
    EXPECT_EQ(choose_conv2d(layer.conv2d(), Isa::avx2).name, "stem_avx2_maddubs16");
    expect_exact(layer, 1, random);
  }
}

TEST(Conv2d, DeepAccumulators) {
  const unsigned seed = 20260215;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const oracle::Convolution shape{1, 512, 4, 4, 17, 1, Window{{3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}}};
  for (const Widths widths : {Widths{8, 8}, Widths{8, 6}, Widths{4, 4}, Widths{2, 2}}) {
    for (const Pattern pattern : all_patterns) expect_exact(LayerCase(shape, widths, pattern, random), 2, random);
  }
}

TEST(Conv2d, RejectsWhatItDoesNotDescribe) {
  std::mt19937 random(1);
  const LayerCase layer({1, 4, 5, 5, 6, 2, Window{{3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}}}, {8, 8}, Pattern::random,
                        random);
  const Conv2dProblem valid = layer.conv2d();
  EXPECT_NO_THROW(validate(valid));
  const auto rejects = [&](auto change, const std::string& part) {
    Conv2dProblem problem = valid;
    change(problem);
    try {
      validate(problem);
      ADD_FAILURE() << "accepted; expected an error about " << part;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  rejects([](auto& p) { p.groups = 3; }, "groups must divide 4 input and 6 output channels, got 3");
  rejects([](auto& p) { p.groups = 0; }, "groups");
  rejects([](auto& p) { p.window.kernel[0] = 0; }, "kernel must be at least 1, got 0");
  rejects([](auto& p) { p.window.stride[1] = 0; }, "stride");
  rejects([](auto& p) { p.window.dilation[0] = -1; }, "dilation");
  rejects([](auto& p) { p.window.padding[3] = -1; }, "padding");
  rejects([](auto& p) { p.in_channels = 0; }, "channels");
  rejects([](auto& p) { p.window.kernel[0] = 4; }, "conv2d: there must be 6 x 24 weights, got 108");

  const ImageLayout input = ImageLayout::dense(1, 5, 5, 4);
  EXPECT_NO_THROW(validate(valid, input, ImageLayout::dense(1, 5, 5, 6)));
  EXPECT_THROW(validate(valid, input, ImageLayout::dense(1, 5, 4, 6)), Error);
  EXPECT_THROW(validate(valid, input, ImageLayout::dense(2, 5, 5, 6)), Error);
  EXPECT_THROW(validate(valid, input, ImageLayout::dense(1, 5, 5, 5)), Error);
  EXPECT_THROW(validate(valid, ImageLayout::dense(1, 5, 5, 3), ImageLayout::dense(1, 5, 5, 6)), Error);
}

}  // namespace
}  // namespace qstep::kernels::test
