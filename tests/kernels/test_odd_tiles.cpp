// The drivers of blocked kernels (panel_gemm.h, panel_conv2d.h, winograd_conv2d.h, rows_conv2d.h, band_depthwise.h) over
// arithmetics of scalars: tiles, steps and groups of sizes that no instruction set has.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/layer_case.h"
#include "qstep/kernels/conv2d/panel_conv2d.h"
#include "qstep/kernels/depthwise/band_depthwise.h"
#include "qstep/kernels/gemm/panel_gemm.h"
#include "qstep/kernels/winograd/winograd_conv2d.h"
#include "qstep/kernels/winograd_rows/rows_conv2d.h"

namespace qstep::kernels::test {
namespace {

using core::Window;

template <class Problem>
bool takes_all(const Problem&) {
  return true;
}

// --- matrix products, and convolutions as such -----------------------------------------------------------------------

/// Sums of two neighbouring products are limited to [low, high].
template <int rows, int step, int32_t low = INT32_MIN, int32_t high = INT32_MAX>
class ScalarProduct {
 public:
  using Code = uint8_t;
  static constexpr int tile_rows = rows;
  static constexpr int tile_panels(int) { return 1; }
  static constexpr int depth_step = step;
  static constexpr int depth_run = depth_step;

  ScalarProduct(const GemmProblem& problem, int64_t groups)
      : depth_(problem.depth),
        group_columns_(problem.columns / groups),
        weights_(problem.weights.begin(), problem.weights.end()) {}
  size_t bytes() const { return 0; }

  void multiply(int64_t panel, int, const TileInput<uint8_t>& input, const int32_t* bias, int32_t* tile) const {
    for (int r = 0; r < input.rows; ++r) {
      for (int c = 0; c < tile_columns; ++c) {
        int32_t sum = bias[c];
        for (int64_t k = 0; k < depth_; k += 2) {
          const int32_t pair = product(panel, c, input, r, k) + product(panel, c, input, r, k + 1);
          sum += std::clamp(pair, low, high);
        }
        tile[r * tile_columns + c] = sum;
      }
    }
  }
  static void stage(const uint8_t* input, int64_t count, uint8_t* output) { std::copy_n(input, count, output); }
  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    epilogue.store_reference(tile, output);
  }

 private:
  int32_t product(int64_t panel, int c, const TileInput<uint8_t>& input, int r, int64_t k) const {
    const int64_t group_panels = ceil_divide(group_columns_, tile_columns);
    const int64_t column = panel % group_panels * tile_columns + c;
    if (column >= group_columns_ || k >= depth_) return 0;
    const uint8_t code = input.row[r][input.steps[k / depth_step] + k % depth_step];
    return code * weights_[static_cast<size_t>((panel / group_panels * group_columns_ + column) * depth_ + k)];
  }

  int64_t depth_, group_columns_;
  std::vector<int16_t> weights_;
};

template <int rows, int step>
constexpr GemmKernel odd_product{"odd tiles", Isa::reference, takes_all, pack_panel_gemm<ScalarProduct<rows, step>>};

TEST(OddTiles, Products) {
  const unsigned seed = 20260219;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int64_t rows = 0; rows <= 23; ++rows) {
    for (const int64_t columns : {1, 15, 16, 17, 50}) {
      LayerCase layer(product(rows, columns, 1 + static_cast<int64_t>(random() % 40)), {8, 8}, Pattern::random, random);
      layer.sliced = rows % 2 == 0;
      const int parts = 1 + static_cast<int>(random() % 4);
      EXPECT_EQ(difference(odd_product<1, 1>, layer, parts, random), "");
      EXPECT_EQ(difference(odd_product<5, 3>, layer, parts, random), "");
      EXPECT_EQ(difference(odd_product<11, 7>, layer, parts, random), "");
      ASSERT_FALSE(HasFailure()) << rows << " x " << columns;
    }
  }
}

template <int rows, int step>
constexpr Conv2dKernel odd_convolution{"odd tiles", Isa::reference, takes_all,
                                       pack_panel_conv2d<ScalarProduct<rows, step>>};

TEST(OddTiles, Convolutions) {
  const unsigned seed = 20261122;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto below = [&](int n) { return static_cast<int32_t>(random() % static_cast<unsigned>(n)); };
  for (int trial = 0; trial < 250; ++trial) {
    const int groups = 1 + below(3);
    const Window window = random_window(4, 4, random);
    LayerCase layer(
        {1 + below(2), groups * (1 + below(14)), 1 + below(9), 1 + below(9), groups * (1 + below(24)), groups, window},
        {8, 8}, Pattern::random, random);
    layer.sliced = below(2) == 0;
    const int parts = 1 + below(4);
    EXPECT_EQ(difference(odd_convolution<1, 1>, layer, parts, random), "");
    EXPECT_EQ(difference(odd_convolution<5, 3>, layer, parts, random), "");
    EXPECT_EQ(difference(odd_convolution<11, 7>, layer, parts, random), "");
    ASSERT_FALSE(HasFailure()) << "trial " << trial;
  }
}

// Several blocks, which end with their row of pixels where whole rows of the image would be too much.
TEST(OddTiles, ConvolutionsOfWideImages) {
  std::mt19937 random(20261125);
  const Window window{{3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}};
  for (const oracle::Convolution& shape :
       {oracle::Convolution{2, 4, 3, 700, 5, 1, window}, oracle::Convolution{1, 30, 4, 520, 3, 1, window},
        oracle::Convolution{1, 512, 3, 100, 3, 1, window}}) {
    const LayerCase layer(shape, {8, 8}, Pattern::random, random);
    EXPECT_EQ(difference(odd_convolution<1, 1>, layer, 2, random), "");
    EXPECT_EQ(difference(odd_convolution<5, 3>, layer, 3, random), "");
    EXPECT_EQ(difference(odd_convolution<11, 7>, layer, 2, random), "");
  }
}

/// What every fast kernel of other libraries does on AVX2: vpmaddubsw as it comes, saturating at int16.
constexpr GemmKernel saturating{"saturating", Isa::reference, takes_all,
                                pack_panel_gemm<ScalarProduct<6, 4, INT16_MIN, INT16_MAX>>};

TEST(NegativeControl, ASaturatingKernelIsCaught) {
  std::mt19937 random(20260206);
  EXPECT_NE(difference(saturating, LayerCase(product(3, 17, 64), {8, 8}, Pattern::pairs, random), 1, random), "");
  EXPECT_NE(difference(saturating, LayerCase(product(20, 17, 64), {8, 8}, Pattern::random, random), 1, random), "");
}

TEST(NegativeControl, TheSameKernelPassesWhereItCannotSaturate) {
  std::mt19937 random(20260207);
  EXPECT_EQ(difference(saturating, LayerCase(product(9, 17, 64), {8, 7}, Pattern::pairs, random), 1, random), "");
}

// --- Winograd --------------------------------------------------------------------------------------------------------

template <class Scheme>
struct WinogradMatrices;

template <>
struct WinogradMatrices<winograd::Stride1> {
  static constexpr int b[4][4] = {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, 1, 0, -1}};
  static constexpr int g[4][3] = {{2, 0, 0}, {1, 1, 1}, {1, -1, 1}, {0, 0, 2}};
  static constexpr int a[2][4] = {{1, 1, 1, 0}, {0, 1, -1, -1}};
};

template <>
struct WinogradMatrices<winograd::Stride2> {
  static constexpr int b[5][5] = {
      {1, 0, -1, 0, 0}, {0, 1, 0, 0, 0}, {0, 0, 1, 0, 0}, {0, 0, 0, 1, 0}, {0, 0, -1, 0, 1}};
  static constexpr int g[5][3] = {{1, 0, 0}, {0, 1, 0}, {1, 0, 1}, {0, 1, 0}, {0, 0, 1}};
  static constexpr int a[2][3] = {{1, 1, 0}, {0, 1, 1}};
};

/// Element (i, j) of M x M^T, where x(k, l) is an element of x.
template <int rows, int columns, class Element>
int32_t transform(const int (&matrix)[rows][columns], int i, int j, Element x) {
  int64_t sum = 0;
  for (int k = 0; k < columns; ++k) {
    for (int l = 0; l < columns; ++l) sum += int64_t{matrix[i][k]} * matrix[j][l] * x(k, l);
  }
  return static_cast<int32_t>(sum);
}

template <class SchemeOf, int rows, int panel_columns, int step, int vector_lanes, int32_t offset>
class ScalarWinograd {
 public:
  using Scheme = SchemeOf;
  using Data = int16_t;
  using Weight = int16_t;
  static constexpr int columns = panel_columns;
  static constexpr int tile_rows = rows;
  static constexpr int depth_step = step;
  static constexpr int lanes = vector_lanes;

  static int32_t data_offset(int32_t) { return offset; }
  static bool supports(const Conv2dProblem&) { return true; }

  explicit ScalarWinograd(const Conv2dProblem&) {}
  size_t bytes() const { return 0; }

  /// Planes of a position lie one after the other.
  static void transform_kernels(const int8_t* kernels, int64_t size, int16_t* weights, int64_t plane_stride) {
    for_each_plane([&](int i, int j, const winograd::Plane& plane) {
      int16_t* to = weights + winograd::place_of<Scheme, int16_t>(plane.position, plane_stride) + plane.index * size;
      for (int64_t w = 0; w < size; ++w) {
        const auto tap = [&](int y, int x) {
          return kernels[(w / lanes * winograd::kernel_taps + 3 * y + x) * lanes + w % lanes];
        };
        to[w] = static_cast<int16_t>(transform(Matrices::g, i, j, tap));
      }
    });
  }

  static void transform_input(const winograd::PatchRow& row, int64_t channels, int32_t data_offset, int16_t* data,
                              int64_t patch_stride, int64_t plane_stride) {
    constexpr int16_t garbage = 77;  // beyond the channels, where weights are zero
    for_each_plane([&](int i, int j, const winograd::Plane& plane) {
      const int planes = winograd::planes_at<Scheme>(plane.position);
      for (int n = 0; n < row.count; ++n) {
        int16_t* to = data + winograd::place_of<Scheme, int16_t>(plane.position, plane_stride) +
                      ((row.place + n) * planes + plane.index) * patch_stride;
        const int64_t column = row.column + winograd::patch_outputs * Scheme::stride * n;
        for (int64_t c = 0; c < patch_stride; ++c) {
          const auto code = [&](int y, int x) { return row.pixel(y, column + x)[c]; };
          const int32_t added = plane.position == winograd::centre ? 0 : data_offset;
          to[c] = c < channels ? static_cast<int16_t>(transform(Matrices::b, i, j, code) + added) : garbage;
        }
      }
    });
  }

  void multiply(int64_t, const winograd::Product<int16_t, int16_t>& product) const {
    for (int r = 0; r < product.count; ++r) {
      for (int c = 0; c < columns; ++c) {
        int32_t sum = product.start[c];
        for (int64_t k = 0; k < product.steps * depth_step; ++k) {
          sum += product.data[r * product.patch_stride + k] *
                 product.weights[(k / depth_step * columns + c) * depth_step + k % depth_step];
        }
        product.sums[r * columns + c] = sum;
      }
    }
  }

  static int transform_output(const winograd::PatchSums& patches, int32_t* accumulators) {
    int stored = 0;
    for (int i = 0; i < patches.count; ++i) {
      for (int y = 0; y <= (patches.extents[i].bottom ? 1 : 0); ++y) {
        for (int x = 0; x <= (patches.extents[i].right ? 1 : 0); ++x, ++stored) {
          for (int c = 0; c < tile_columns; ++c) {
            const auto sum = [&](int k, int l) {
              return patches.sums[i * patches.patch_stride + (k * Scheme::sides + l) * patches.position_stride + c];
            };
            accumulators[stored * tile_columns + c] =
                (transform(Matrices::a, y, x, sum) + patches.bias[c]) / Scheme::unit;
          }
        }
      }
    }
    return stored;
  }

  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    epilogue.store_reference(tile, output);
  }

 private:
  using Matrices = WinogradMatrices<Scheme>;

  template <class Body>
  static void for_each_plane(Body body) {
    for (int i = 0; i < Scheme::patch_size; ++i) {
      for (int j = 0; j < Scheme::patch_size; ++j) body(i, j, winograd::plane_of<Scheme>(i, j));
    }
  }
};

template <class Scheme, int rows, int columns, int step, int lanes, int32_t offset>
constexpr Conv2dKernel odd_winograd{
    "odd tiles", Isa::reference, takes_all,
    winograd::pack_winograd_conv2d<ScalarWinograd<Scheme, rows, columns, step, lanes, offset>>};

TEST(OddTiles, Winograd) {
  const unsigned seed = 20261123;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto below = [&](int n) { return static_cast<int32_t>(random() % static_cast<unsigned>(n)); };
  for (int trial = 0; trial < 120; ++trial) {
    const int32_t stride = 1 + trial % 2;
    const Window window{{3, 3}, {stride, stride}, {below(3), below(3), below(3), below(3)}, {1, 1}};
    LayerCase layer({1 + below(2), 1 + below(12), 1 + below(9), 1 + below(9), 1 + below(60), 1, window}, {8, 8},
                    all_patterns[below(5)], random);
    layer.sliced = below(2) == 0;
    const int parts = 1 + below(4);
    if (stride == 1) {
      EXPECT_EQ(difference(odd_winograd<winograd::Stride1, 1, 16, 1, 1, 0>, layer, parts, random), "");
      EXPECT_EQ(difference(odd_winograd<winograd::Stride1, 5, 16, 3, 24, 9>, layer, parts, random), "");
      EXPECT_EQ(difference(odd_winograd<winograd::Stride1, 7, 48, 5, 10, -3>, layer, parts, random), "");
    } else {
      EXPECT_EQ(difference(odd_winograd<winograd::Stride2, 1, 16, 1, 1, 0>, layer, parts, random), "");
      EXPECT_EQ(difference(odd_winograd<winograd::Stride2, 5, 16, 3, 24, 0>, layer, parts, random), "");
      EXPECT_EQ(difference(odd_winograd<winograd::Stride2, 7, 48, 5, 10, 0>, layer, parts, random), "");
    }
    ASSERT_FALSE(HasFailure()) << "trial " << trial << ": " << layer.describe();
  }
}

// --- Winograd along rows ---------------------------------------------------------------------------------------------

/// `error` is added to one sum of each tile.
template <int tile, int input, int32_t error = 0>
class ScalarWinogradRows {
 public:
  static constexpr int tile_groups = tile;
  static constexpr int input_groups = input;

  static void transform_input(const uint8_t* codes, int64_t channels, int64_t groups, int16_t* data,
                              int64_t position_stride) {
    for (int64_t g = 0; g < groups; ++g) {
      for (int p = 0; p < winograd_rows::positions; ++p) {
        int16_t* to = data + p * position_stride + g * winograd_rows::group_data;
        std::fill_n(to, winograd_rows::group_data, int16_t{0});
        for (int i = 0; i < winograd_rows::group_pairs * winograd_rows::phases; ++i) {
          const int64_t column = g * winograd_rows::group_outputs * winograd_rows::phases + i;
          const int phase = i % winograd_rows::phases;
          const int16_t factor = winograd_rows::data_matrix[p][i / winograd_rows::phases][phase];
          for (int64_t c = 0; c < channels; ++c) {
            const int64_t place = p == winograd_rows::at_3 ? c : c * winograd_rows::phases + phase;
            to[place] = static_cast<int16_t>(to[place] + factor * codes[column * channels + c]);
          }
        }
      }
    }
  }

  static void multiply(const winograd_rows::Product& product) {
    const int16_t* weights = product.weights;
    for (int p = 0; p < winograd_rows::positions; ++p) {
      const auto steps = p == winograd_rows::at_3 ? product.steps_at_3 : product.steps;
      for (int i = 0; i < product.groups * tile_columns; ++i) {
        int32_t sum = product.start[p * tile_columns + i % tile_columns];
        for (size_t s = 0; s < steps.size(); ++s) {
          const int16_t* data = steps[s] + product.offset + p * product.position_stride;
          for (int half = 0; half < 2; ++half) {
            sum += data[i / tile_columns * winograd_rows::group_data + half] *
                   weights[(static_cast<int64_t>(s) * tile_columns + i % tile_columns) * 2 + half];
          }
        }
        product.sums[p * tile_groups * tile_columns + i] = sum;
      }
      weights += static_cast<int64_t>(steps.size()) * winograd_rows::WeightLayout::step_size;
    }
    product.sums[winograd_rows::at_infinity * tile_groups * tile_columns] += error;
  }

  static void transform_output(const int32_t* sums, int groups, int32_t* accumulators) {
    constexpr int infinity = INT16_MAX;
    static constexpr int points[winograd_rows::positions] = {0, 1, -1, 2, -2, infinity, 3};
    for (int i = 0; i < groups * tile_columns; ++i) {
      int32_t* column =
          accumulators + i / tile_columns * winograd_rows::group_outputs * tile_columns + i % tile_columns;
      for (int output = 0; output < winograd_rows::group_outputs; ++output) {
        int64_t total = 0;
        for (int p = 0; p < winograd_rows::positions; ++p) {
          int power = 1;
          for (int k = 0; k < output && points[p] != infinity; ++k) power *= points[p];
          if (points[p] == infinity && output + 1 < winograd_rows::group_outputs) power = 0;
          total += int64_t{power} * sums[p * tile_groups * tile_columns + i];
        }
        column[output * tile_columns] = static_cast<int32_t>(total / winograd_rows::unit);
      }
    }
  }

  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile_of_outputs, const Output& output) {
    epilogue.store_reference(tile_of_outputs, output);
  }
};

template <int tile, int input, int32_t error = 0>
constexpr Conv2dKernel odd_winograd_rows{"odd tiles", Isa::reference, takes_all,
                                         winograd_rows::pack_rows_conv2d<ScalarWinogradRows<tile, input, error>>};

TEST(OddTiles, WinogradRows) {
  const unsigned seed = 20261124;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto below = [&](int n) { return static_cast<int32_t>(random() % static_cast<unsigned>(n)); };
  for (int trial = 0; trial < 40; ++trial) {
    const Window window{{7 - below(6), 7}, {1 + below(3), 2}, {below(4), below(4), below(4), below(4)}, {1, 1}};
    const int64_t channels = std::max(1 + below(4), (6 + window.kernel[0]) / window.kernel[0]);
    if (channels > 4) continue;
    LayerCase layer({1 + below(2), channels, 1 + below(12), 1 + below(40), 1 + below(40), 1, window}, {8, 8},
                    all_patterns[below(5)], random);
    layer.sliced = below(2) == 0;
    const int parts = 1 + below(4);
    EXPECT_EQ(difference(odd_winograd_rows<1, 1>, layer, parts, random), "");
    EXPECT_EQ(difference(odd_winograd_rows<3, 5>, layer, parts, random), "");
    EXPECT_EQ(difference(odd_winograd_rows<8, 3>, layer, parts, random), "");
    ASSERT_FALSE(HasFailure()) << "trial " << trial << ": " << layer.describe();
  }
}

TEST(NegativeControl, OneUnitInOneSumAlongRowsIsCaught) {
  std::mt19937 random(20261126);
  const Window window{{7, 7}, {2, 2}, {3, 3, 3, 3}, {1, 1}};
  const LayerCase layer({1, 3, 9, 32, 5, 1, window}, {8, 8}, Pattern::random, random);
  EXPECT_EQ(difference(odd_winograd_rows<3, 2, 0>, layer, 1, random), "");
  EXPECT_NE(difference(odd_winograd_rows<3, 2, winograd_rows::unit>, layer, 1, random), "");
}

// --- depthwise -------------------------------------------------------------------------------------------------------

template <int rows, int... block_widths>
class ScalarDepthwise {
 public:
  using Code = int16_t;
  static constexpr int group_rows = rows;
  static constexpr std::array widths{block_widths...};

  ScalarDepthwise(const Conv2dProblem& problem, const BandGeometry& geometry,
                  const std::vector<int64_t>& first_channels)
      : geometry_(geometry) {
    pack_band_weights(problem, geometry, first_channels, weights_);
  }
  size_t bytes() const { return 0; }

  static void stage(const std::array<const uint8_t*, rows>& pixels, const std::array<int64_t, rows>& strides,
                    int64_t columns, int width, int16_t* output, int64_t output_stride) {
    for (int64_t x = 0; x < columns; ++x) {
      for (int i = 0; i < width * rows; ++i) {
        const auto r = static_cast<size_t>(i % rows);
        output[x * output_stride + i] = pixels[r][x * strides[r] + i / rows];
      }
    }
  }

  void multiply(int64_t tile, const StagedBand<int16_t>& band, const int32_t* bias, int32_t* sums) const {
    const int64_t tap_size = int64_t{geometry_.rows} * tile_columns * rows;
    const int16_t* weights = weights_.data() + tile * geometry_.taps() * tap_size;
    for (int b = 0; b < band.rows; ++b) {
      for (int64_t x = 0; x < band.columns; ++x) {
        for (int c = 0; c < tile_columns; ++c) {
          int32_t sum = bias[c];
          for (size_t t = 0; t < band.tap_offsets.size(); ++t) {
            for (int r = 0; r < rows; ++r) {
              sum += band.codes[x * band.output_stride + band.tap_offsets[t] + c * rows + r] *
                     weights[static_cast<int64_t>(t) * tap_size + (b * tile_columns + c) * rows + r];
            }
          }
          sums[(b * band.columns + x) * tile_columns + c] = sum;
        }
      }
    }
  }

  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    epilogue.store_reference(tile, output);
  }

 private:
  BandGeometry geometry_;
  AlignedVector<int16_t> weights_;
};

template <int rows, int... widths>
constexpr Conv2dKernel odd_depthwise{"odd tiles", Isa::reference, takes_all,
                                     pack_band_depthwise<ScalarDepthwise<rows, widths...>>};

TEST(OddTiles, Depthwise) {
  const unsigned seed = 20261124;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto below = [&](int n) { return static_cast<int32_t>(random() % static_cast<unsigned>(n)); };
  for (int trial = 0; trial < 150; ++trial) {
    const int64_t channels = 1 + below(130);
    const Window window = random_window(5, 4, random);
    LayerCase layer({1 + below(2), channels, 1 + below(9), 1 + below(9), channels, channels, window}, {8, 8},
                    all_patterns[below(5)], random);
    layer.sliced = below(2) == 0;
    const int parts = 1 + below(4);
    EXPECT_EQ(difference(odd_depthwise<1, 16>, layer, parts, random), "");
    EXPECT_EQ(difference(odd_depthwise<3, 48, 16>, layer, parts, random), "");
    EXPECT_EQ(difference(odd_depthwise<5, 80, 48, 32, 16>, layer, parts, random), "");
    EXPECT_EQ(difference(odd_depthwise<7, 16>, layer, parts, random), "");
    ASSERT_FALSE(HasFailure()) << "trial " << trial << ": " << layer.describe();
  }
}

}  // namespace
}  // namespace qstep::kernels::test
