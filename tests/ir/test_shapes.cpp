// Shapes of known cases, and the errors of inputs that do not fit.
#include <gtest/gtest.h>

#include <array>

#include "ir/expect_error.h"
#include "ir/sample_graph.h"

namespace qstep::test {
namespace {

using namespace qstep::ir;

TEST(Shapes, FollowTheSampleGraph) {
  Graph graph = sample_graph();
  for (const int64_t batch : {1, 2, 7, 0}) {
    const std::vector<Shape> shapes = infer_shapes(graph, {{batch, 3, 8, 8}});
    const auto shape = [&](const char* name) { return shapes[static_cast<size_t>(value_id(graph, name))]; };
    EXPECT_EQ(shape("conv2d"), (Shape{batch, 4, 8, 8}));
    EXPECT_EQ(shape("max_pool2d"), (Shape{batch, 4, 4, 4}));
    EXPECT_EQ(shape("concat"), (Shape{batch, 8, 4, 4}));
    EXPECT_EQ(shape("slice"), (Shape{batch, 4, 4, 4}));
    EXPECT_EQ(shape("permute"), (Shape{batch, 4, 4, 4}));
    EXPECT_EQ(shape("pad"), (Shape{batch, 4, 4, 6}));
    EXPECT_EQ(shape("reshape"), (Shape{batch, 96}));
    EXPECT_EQ(shape("logits"), (Shape{batch, 5}));
  }
}

Node pool(const Window& window, bool ceil_mode) { return {"pool", MaxPool2d{window, ceil_mode}, {0}, 1}; }

// {input, kernel, stride, padding before, padding after, dilation, floor, ceil}
TEST(Shapes, CountWindows) {
  constexpr std::array<std::array<int32_t, 8>, 9> cases = {{
      {8, 2, 2, 0, 0, 1, 4, 4},
      {7, 2, 2, 0, 0, 1, 3, 4},
      {7, 3, 2, 1, 1, 1, 4, 4},
      {8, 3, 2, 1, 1, 1, 4, 5},
      {2, 1, 2, 0, 0, 1, 1, 1},  // a second window would start beyond the image
      {7, 2, 3, 0, 0, 1, 2, 3},  // the third starts at 6 of 7
      {5, 2, 3, 1, 1, 1, 2, 2},  // a third would start at 6 of 6
      {9, 3, 2, 0, 0, 2, 3, 3},
      {10, 3, 2, 0, 0, 2, 3, 4},
  }};
  for (const auto& [input, kernel, stride, before, after, dilation, floor, ceil] : cases) {
    const Window window{{kernel, kernel}, {stride, stride}, {before, before, after, after}, {dilation, dilation}};
    const std::vector<Shape> shape = {{1, 1, input, input}};
    EXPECT_EQ(output_shape(pool(window, false), shape), (Shape{1, 1, floor, floor})) << input << " " << kernel;
    EXPECT_EQ(output_shape(pool(window, true), shape), (Shape{1, 1, ceil, ceil})) << input << " " << kernel;
  }
}

TEST(Shapes, SlicesTakeEachStep) {
  const auto size = [](int64_t start, int64_t stop, int64_t step) {
    return output_shape({"cut", Slice{1, start, stop, step}, {0}, 1}, std::vector<Shape>{{2, 9}})[1];
  };
  EXPECT_EQ(size(0, 9, 1), 9);
  EXPECT_EQ(size(0, 9, 2), 5);
  EXPECT_EQ(size(1, 9, 2), 4);
  EXPECT_EQ(size(1, 8, 3), 3);
  EXPECT_EQ(size(8, 9, 100), 1);
}

TEST(Shapes, ReshapeFillsIn) {
  const auto reshaped = [](Shape to, Shape from) {
    return output_shape({"reshape", Reshape{std::move(to)}, {0}, 1}, std::vector<Shape>{std::move(from)});
  };
  EXPECT_EQ(reshaped({0, -1}, {2, 3, 4, 5}), (Shape{2, 60}));
  EXPECT_EQ(reshaped({-1, 0}, {2, 3, 4}), (Shape{8, 3}));
  EXPECT_EQ(reshaped({0, 3, 1, -1}, {2, 6}), (Shape{2, 3, 1, 2}));
  EXPECT_EQ(reshaped({0, 7}, {0, 7}), (Shape{0, 7}));
  EXPECT_EQ(reshaped({0, -1}, {0, 3, 4}), (Shape{0, 12}));
  EXPECT_EQ(reshaped({-1, 12}, {0, 3, 4}), (Shape{0, 12}));
  expect_error([&] { reshaped({5, -1}, {2, 3}); }, "'reshape'", "does not fit");
  expect_error([&] { reshaped({2, 4}, {2, 3}); }, "'reshape'", "does not fit");
  expect_error([&] { reshaped({2, 3, 0}, {2, 3}); }, "'reshape'", "keeps size 2");
  expect_error([&] { reshaped({int64_t{1} << 39, int64_t{1} << 39, -1}, {2, 3}); }, "2^40");
}

TEST(Shapes, NameTheNodeThatCannotTakeItsInput) {
  Graph graph = sample_graph();
  expect_error([&] { infer_shapes(graph, {}); }, "1 inputs, got 0");
  expect_error([&] { infer_shapes(graph, {{2, 3, 8}}); }, "'conv2d'", "[N, C, H, W]", "[2, 3, 8]");
  expect_error([&] { infer_shapes(graph, {{2, 4, 8, 8}}); }, "'conv2d'", "3 channels", "[2, 4, 8, 8]");
  expect_error([&] { infer_shapes(graph, {{2, 3, 1, 8}}); }, "'max_pool2d'", "does not fit", "height");
  expect_error([&] { infer_shapes(graph, {{2, 3, 12, 8}}); }, "'linear'", "96", "[2, 144]");
  expect_error([&] { infer_shapes(graph, {{2, 3, -8, 8}}); }, "'image'", ">= 0");
  expect_error([&] { infer_shapes(graph, {{int64_t{1} << 38, 3, 8, 8}}); }, "'image'", "2^40");

  const std::vector<Shape> image = {{1, 2, 3, 3}};
  expect_error([&] { output_shape({"cut", Slice{1, 0, 3}, {0}, 1}, image); }, "'cut'", "stop", "2");
  expect_error([&] { output_shape({"cut", Slice{4, 0, 3}, {0}, 1}, image); }, "'cut'", "axis");
  expect_error([&] { output_shape({"frame", Pad{{0, 1}, {1, 0}}, {0}, 1}, image); }, "'frame'", "2 dimensions");
  const Shape far = {0, 0, int64_t{1} << 39, 0};
  expect_error([&] { output_shape({"frame", Pad{far, far}, {0}, 1}, image); }, "'frame'", "2^40");
  expect_error([&] { output_shape({"turn", Permute{{0, 1}}, {0}, 1}, image); }, "'turn'", "order");
  expect_error(
      [&] {
        output_shape({"join", Concat{1}, {0, 0}, 1}, std::vector<Shape>{{1, 2, 3}, {1, 2, 4}});
      },
      "'join'", "axis 1");
  expect_error(
      [&] {
        output_shape({"sum", Bilinear{}, {0, 0}, 1}, std::vector<Shape>{{1, 2}, {2, 2}});
      },
      "'sum'", "[2, 2]");
  expect_error([&] { output_shape({"sum", Bilinear{}, {0, 0}, 1}, std::vector<Shape>{{1, 2}, {2}}); }, "'sum'", "[2]");
  // Taps at -1 and 1 of an image of one row.
  expect_error(
      [&] {
        output_shape(pool({{2, 2}, {1, 1}, {1, 1, 1, 1}, {2, 2}}, false), std::vector<Shape>{{1, 1, 1, 1}});
      },
      "'pool'", "entirely in the padding");
}

// An adaptive pool's windows depend on the image: so does whether their sum fits 64 bits.
TEST(Shapes, BoundAdaptiveAverages) {
  AvgPool2d average{
      .adaptive = true, .output_size = {1, 1}, .multiplier = 1 << 23, .constant = int64_t{1} << 52, .shift = 52};
  EXPECT_EQ(output_shape({"mean", average, {0}, 1}, std::vector<Shape>{{1, 3, 16, 16}}), (Shape{1, 3, 1, 1}));
  expect_error([&] { output_shape({"mean", average, {0}, 1}, std::vector<Shape>{{1, 3, 64, 64}}); }, "'mean'", "2^62");
  average.output_size[0] = 0;
  EXPECT_EQ(output_shape({"mean", average, {0}, 1}, std::vector<Shape>{{1, 3, 64, 16}}), (Shape{1, 3, 64, 1}));
}

TEST(Shapes, AnotherDivisorNeedsWindowsOfOneSize) {
  const AvgPool2d average{.adaptive = true, .output_size = {2, 3}, .divisor_override = 4};
  const auto shape = [&](int64_t height, int64_t width) {
    return output_shape({"mean", average, {0}, 1}, std::vector<Shape>{{1, 3, height, width}});
  };
  EXPECT_EQ(shape(4, 9), (Shape{1, 3, 2, 3}));
  expect_error([&] { shape(5, 9); }, "'mean'", "divisor_override needs windows of one size", "5");
  expect_error([&] { shape(4, 8); }, "'mean'", "divisor_override needs windows of one size", "8");
}

}  // namespace
}  // namespace qstep::test
