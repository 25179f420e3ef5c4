#pragma once
// Winograd's F(2x2, 3x3) in integers: a 3x3 convolution of stride 1 makes 2x2 outputs from a 4x4 patch of its input with
// 16 products per channel in place of 36.
//
//   data    = B^T d B     of a patch d of codes           B^T = | 1  0 -1  0 |   G = | 2  0  0 |   A^T = | 1  1  1  0 |
//   weights = G g G^T     of a 3x3 kernel g                     | 0  1  1  0 |       | 1  1  1 |         | 0  1 -1 -1 |
//   sums[p] = sum over channels of data[p] * weights[p]         | 0 -1  1  0 |       | 1 -1  1 |
//   4 * (outputs without bias) = A^T sums A                     | 0  1  0 -1 |       | 0  0  2 |
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
#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/conv2d/conv2d.h"

namespace qstep::kernels::winograd {

inline constexpr int kernel_taps = 9;
inline constexpr int patch_outputs = 2;  // rows and columns of outputs that a patch makes

/// As above.
struct Stride1 {
  static constexpr int stride = 1;
  static constexpr int patch_size = 4;                          // rows and columns of codes that a patch reads
  static constexpr int sides = 4;                               // rows and columns of positions
  static constexpr int position_of[patch_size] = {0, 1, 2, 3};  // of rows and columns of data
  static constexpr int unit = 4;                                // of the sums
};

/// A convolution of stride 2 is one of stride 1 in each phase of the image, even or odd rows and columns. In each
/// dimension F(2, 2) of the even ones and the two products of the odd ones share three sums: 25 products in place of 36.
///
///   B^T = | 1  0 -1  0  0 |   G = | 1  0  0 |   A^T = | 1  1  0 |
///         | 0  1  0  0  0 |       | 0  1  0 |         | 0  1  1 |
///         | 0  0  1  0  0 |       | 1  0  1 |
///         | 0  0  0  1  0 |       | 0  1  0 |
///         | 0  0 -1  0  1 |       | 0  0  1 |
///
/// Products of rows 0 and 1 of data and weights are added to the same sums, and those of rows 3 and 4; so are columns.
/// Data lies in [-2 m, 2 m], weights within +-4 * 128, and the outputs come without a factor.
struct Stride2 {
  static constexpr int stride = 2;
  static constexpr int patch_size = 5;
  static constexpr int sides = 3;
  static constexpr int position_of[patch_size] = {0, 0, 1, 2, 2};
  static constexpr int unit = 1;
};

template <class Scheme>
inline constexpr int positions_of = Scheme::sides* Scheme::sides;

inline constexpr int positions = positions_of<Stride1>;
inline constexpr int centre = 5;

/// All data, or weights, of one row and column: the sums that its products are added to, and its number among those that
/// are.
struct Plane {
  int position;
  int index;
};

template <class Scheme>
constexpr Plane plane_of(int i, int j) {
  const auto position = [](int k) {
    return Scheme::position_of[k / Scheme::patch_size] * Scheme::sides + Scheme::position_of[k % Scheme::patch_size];
  };
  const int plane = i * Scheme::patch_size + j;
  int index = 0;
  for (int k = 0; k < plane; ++k) index += position(k) == position(plane) ? 1 : 0;
  return {position(plane), index};
}

/// Planes of the positions before each one, and of all.
template <class Scheme>
inline constexpr auto planes_before = [] {
  std::array<int, positions_of<Scheme> + 1> before{};
  for (int i = 0; i < Scheme::patch_size; ++i) {
    for (int j = 0; j < Scheme::patch_size; ++j) {
      const auto position = static_cast<size_t>(plane_of<Scheme>(i, j).position);
      for (size_t p = position + 1; p < before.size(); ++p) ++before[p];
    }
  }
  return before;
}();

template <class Scheme>
constexpr int planes_at(int position) {
  const auto p = static_cast<size_t>(position);
  return planes_before<Scheme>[p + 1] - planes_before<Scheme>[p];
}

/// Where data or weights of a position begin, with so many elements to a plane. A cache line lies between positions, so
/// that they do not compete for the same sets of the cache.
template <class Scheme, class T>
constexpr int64_t place_of(int position, int64_t plane_stride) {
  return planes_before<Scheme>[static_cast<size_t>(position)] * plane_stride +
         position * static_cast<int64_t>(memory_alignment / sizeof(T));
}

/// True where the problem is a convolution as above, of one group and one sum per output, whose kernels are int8 and
/// whose accumulators are below 2^31 / unit.
template <class Scheme>
bool fits_scheme(const Conv2dProblem& problem);

/// A panel of transformed weights is [positions][steps][columns][depth_step], zero where there are no channels. Where a
/// position has several planes, they take turns in blocks of `lanes` channels. Its kernels, as they are packed, go with
/// vectors of a plane: [steps * columns * depth_step / lanes][kernel_taps][lanes].
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
  const uint8_t* rows[Stride2::patch_size];    ///< column 0 of the image, or zero_pixel where the row is outside
  int64_t pixel_strides[Stride2::patch_size];  ///< 0 where the row is outside
  const uint8_t* zero_pixel = nullptr;         ///< in_channels zero codes
  int64_t width = 0;                           ///< of the image
  int64_t column = 0;  ///< where the first patch begins; the next begins patch_outputs * stride later
  int count = 0;
  int64_t place = 0;  ///< of the first patch in scratch; the others follow

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

/// body(first, tiles, rows), with a constant number of rows, for runs of tiles of the same size, which differ by one row.
template <int max_rows, class Body>
void for_each_run_of_tiles(int count, Body body) {
  const auto tiles = static_cast<int>(ceil_divide(count, max_rows));
  const int rows = count / tiles;
  const int higher = count % tiles;
  if (higher > 0) with_constant_rows<max_rows>(rows + 1, [&](auto constant) { body(0, higher, constant); });
  with_constant_rows<max_rows>(rows, [&](auto constant) { body(higher * (rows + 1), tiles - higher, constant); });
}

/// Which of a patch's outputs lie in the image; the first one always does.
struct PatchExtent {
  bool right;
  bool bottom;
};

/// The sums of patches at all positions, and what makes outputs of them.
struct PatchSums {
  const int32_t* sums;  ///< [positions][count][columns], of tile_columns of the columns
  int64_t patch_stride;
  int64_t position_stride;
  const PatchExtent* extents;  ///< [count]
  int count;
  const int32_t* bias;  ///< [tile_columns]
};

}  // namespace qstep::kernels::winograd
