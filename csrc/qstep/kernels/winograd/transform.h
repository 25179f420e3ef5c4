#pragma once
// Winograd's F(2x2, 3x3) in integers: a 3x3 convolution of stride 1 makes 2x2 outputs from a 4x4 patch of its input with
// 16 products per channel in place of 36.
//
//   data    = B d B^T     of a patch d of codes           B = | 1  0 -1  0 |   G = | 2  0  0 |   A = | 1  1  1  0 |
//   weights = G g G^T     of a 3x3 kernel g                   | 0  1  1  0 |       | 1  1  1 |       | 0  1 -1 -1 |
//   sums[p] = sum over channels of data[p] * weights[p]       | 0 -1  1  0 |       | 1 -1  1 |
//   4 * (outputs without bias) = A sums A^T                   | 0  1  0 -1 |       | 0  0  2 |
//
// G is twice the usual one, so that it holds integers: every step is exact, and so is the division by 4. The sums of
// each of the 16 positions p are a matrix product: its rows are patches, its depth is the input channels. Sums may wrap
// around 2^32: what is computed from them is right as long as 4 * accumulator fits int32.
//
// With codes in [0, m], data lies in [-2 m, 2 m], except at the centre, position 5 (row 1, column 1), in [0, 4 m]. With
// kernels in int8, weights lie within +-9 * 128.
//
// Kernels are packed as they are and transformed by each run, a panel at a time: that takes a few operations per weight,
// and transformed weights would take 16/9 (in int16, 32/9) of the memory, which layers with many channels wait for.
#include <cstdint>
#include <type_traits>
#include <vector>

#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/conv2d/conv2d.h"

namespace qstep::kernels::winograd {

inline constexpr int kernel_taps = 9;
inline constexpr int patch_size = 4;     // rows and columns of codes that a patch reads
inline constexpr int patch_outputs = 2;  // rows and columns of outputs that it makes
inline constexpr int positions = patch_size * patch_size;
inline constexpr int centre = 5;

/// True where the problem is a convolution as above, of one group and one sum per output, whose kernels are int8 and
/// whose accumulators are below 2^29.
bool is_suitable(const Conv2dProblem& problem);

/// A panel of transformed weights is [positions][steps][columns][depth_step], zero where there are no channels. Its
/// kernels, as they are packed, go with vectors of it: [steps * columns * depth_step / lanes][kernel_taps][lanes].
struct WeightLayout {
  int64_t in_channels;
  int64_t out_channels;
  int columns;
  int depth_step;
  int lanes;  // divides columns * depth_step

  int64_t panels() const { return ceil_divide(out_channels, columns); }
  int64_t steps() const { return ceil_divide(in_channels, depth_step); }
  int64_t position_size() const { return steps() * columns * depth_step; }
  int64_t kernels_size() const { return position_size() * kernel_taps; }
};

/// [panels][kernels_size]
AlignedVector<int8_t> pack_kernels(const Conv2dProblem& problem, const WeightLayout& layout);

/// The transformed weights of one panel, for proofs.
std::vector<int16_t> transform_panel(const Conv2dProblem& problem, const WeightLayout& layout, int64_t panel);

/// Data and weights in bytes, for codes of up to 6 bits: data + 2 * quant_max lies in [0, 4 * quant_max].
struct InBytes {
  using Data = uint8_t;
  using Weight = int8_t;
  static constexpr int depth_step = 4;

  static int32_t data_offset(int32_t quant_max) { return 2 * quant_max; }
  /// True where all data fit uint8 and all transformed weights int8.
  static bool fits(const Conv2dProblem& problem);
};

/// Neighbours in a row of patches.
struct PatchRow {
  const uint8_t* rows[patch_size];      ///< column 0 of the image, or zero_pixel where the row is outside
  int64_t pixel_strides[patch_size];    ///< 0 where the row is outside
  const uint8_t* zero_pixel = nullptr;  ///< in_channels zero codes
  int64_t width = 0;                    ///< of the image
  int64_t column = 0;                   ///< where the first patch begins; the next begins patch_outputs later
  int count = 0;

  const uint8_t* pixel(int row, int64_t x) const {
    return 0 <= x && x < width ? rows[row] + x * pixel_strides[row] : zero_pixel;
  }
};

/// sums[count][columns] = start[columns] + data[count][channels] * weights, at one position of one panel.
template <class Data, class Weight>
struct Product {
  const Data* data;
  int64_t patch_stride;
  int count;
  const Weight* weights;
  int64_t steps;
  const int32_t* start;
  int32_t* sums;
};

/// body(rows) with a constant argument, 1 <= rows <= max.
template <int max, class Body>
void with_constant_rows(int rows, Body body) {
  if constexpr (max > 1) {
    if (rows < max) return with_constant_rows<max - 1>(rows, body);
  }
  body(std::integral_constant<int, max>{});
}

/// body(first, rows), with a constant number of rows, of tiles of about the same size.
template <int max_rows, class Body>
void for_each_tile(int count, Body body) {
  const auto tiles = static_cast<int>(ceil_divide(count, max_rows));
  for (int t = 0; t < tiles; ++t) {
    const int first = count * t / tiles;
    with_constant_rows<max_rows>(count * (t + 1) / tiles - first, [&](auto rows) { body(first, rows); });
  }
}

/// Which of a patch's outputs lie in the image; the first one always does.
struct PatchExtent {
  bool right;
  bool bottom;
};

}  // namespace qstep::kernels::winograd
