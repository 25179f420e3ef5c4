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
// each of the 16 positions p are a matrix product of patches and channels. Sums may wrap around 2^32: what is computed
// from them is right as long as 4 * accumulator fits int32.
//
// With codes in [0, m], data lies in [-2 m, 2 m], except at the centre, position 5 (row 1, column 1), in [0, 4 m].
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "qstep/kernels/conv2d/conv2d.h"
#include "qstep/kernels/gemm/gemm.h"

namespace qstep::kernels::winograd {

inline constexpr int patch_size = 4;     // rows and columns of codes that a patch reads
inline constexpr int patch_outputs = 2;  // rows and columns of outputs that it makes
inline constexpr int positions = patch_size * patch_size;
inline constexpr int centre = 5;

/// True where the problem is a convolution as above, of one group and one sum per output, whose accumulators are below
/// 2^29.
bool is_suitable(const Conv2dProblem& problem);

/// The transformed kernels: [panels][positions][tile_columns][in_channels], zero beyond the output channels. Nothing
/// where some do not fit int16.
std::optional<std::vector<int16_t>> transform_weights(const Conv2dProblem& problem);

/// The matrix product of transformed data in [0, data_max] (ignored by kernels for int16) with transformed weights.
GemmProblem as_gemm(const Conv2dProblem& problem, std::span<const int16_t> transformed_weights, int32_t data_max);

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

/// Which of a patch's outputs lie in the image; the first one always does.
struct PatchExtent {
  bool right;
  bool bottom;
};

}  // namespace qstep::kernels::winograd
