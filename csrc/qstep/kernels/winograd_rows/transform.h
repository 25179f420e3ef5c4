#pragma once
// Winograd's algorithm in integers along the rows of a convolution whose kernels have 7 columns, with horizontal stride
// 2 and few input channels: the first layer of a network. Columns of the padded input lie in pairs, of phase 0 and phase
// 1, and within a phase a row of a kernel has stride 1: taps 0, 2, 4, 6 in phase 0, taps 1, 3, 5 in phase 1. F(4, 4) and
// F(4, 3) make four neighbouring outputs, a group, from seven pairs, with 13 products per channel and row of the kernel
// in place of 28:
//
//   data[p][phase]    = sum over pairs k of data_matrix[p][k][phase] * d[k][phase]      d: codes
//   weights[p][phase] = sum over taps t of weight_matrix[p][t][phase] * g[t][phase]     g: a row of a kernel
//   sums[p]           = sum over rows, channels and phases of data[p] * weights[p]
//   unit * output i, without bias = sum over p of points[p]^i * sums[p]                 at infinity: sums[p] where i is 3
//
// points = 0, 1, -1, 2, -2, infinity and, in phase 0 only, 3. The weights are `unit` times the usual ones, so that they
// are integers: every step is exact, and so is the division. The sums of each position p are a matrix product: its rows
// are groups, its depth is rows of a kernel, channels and phases. Sums may wrap around 2^32: what is computed from them
// is right as long as unit * accumulator fits int32.
//
// With codes in [0, m], data lies in [-20 m, 21 m]; transformed weights lie within unit times the largest weight.
#include <cstdint>

#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/conv2d/conv2d.h"

namespace qstep::kernels::winograd_rows {

inline constexpr int kernel_columns = 7;
inline constexpr int most_rows = 7;  // of a kernel
inline constexpr int most_channels = 4;
inline constexpr int phases = 2;
inline constexpr int phase_taps = 4;
inline constexpr int group_outputs = 4;
inline constexpr int group_pairs = 7;  // that a group reads; the next group begins group_outputs pairs later
inline constexpr int unit = 120;

enum Position { at_0, at_1, at_minus_1, at_2, at_minus_2, at_infinity, at_3, positions };

inline constexpr int16_t data_matrix[positions][group_pairs][phases] = {
    {{12, 4}, {-4, 0}, {-15, -5}, {5, 0}, {3, 1}, {-1, 0}, {0, 0}},   // 0
    {{0, 0}, {12, 4}, {8, 4}, {-7, -1}, {-2, -1}, {1, 0}, {0, 0}},    // 1
    {{0, 0}, {-12, -4}, {16, 4}, {-1, 1}, {-4, -1}, {1, 0}, {0, 0}},  // -1
    {{0, 0}, {-6, -2}, {-1, -1}, {7, 2}, {1, 1}, {-1, 0}, {0, 0}},    // 2
    {{0, 0}, {6, 2}, {-5, -1}, {-5, -2}, {5, 1}, {-1, 0}, {0, 0}},    // -2
    {{0, 0}, {-12, 4}, {4, 0}, {15, -5}, {-5, 0}, {-3, 1}, {1, 0}},   // infinity
    {{0, 0}, {4, 0}, {0, 0}, {-5, 0}, {0, 0}, {1, 0}, {0, 0}},        // 3
};
inline constexpr int16_t weight_matrix[positions][phase_taps][phases] = {
    {{10, 30}, {0, 0}, {0, 0}, {0, 0}},       // 0
    {{10, 20}, {10, 20}, {10, 20}, {10, 0}},  // 1
    {{5, 20}, {-5, -20}, {5, 20}, {-5, 0}},   // -1
    {{5, 5}, {10, 10}, {20, 20}, {40, 0}},    // 2
    {{1, 5}, {-2, -10}, {4, 20}, {-8, 0}},    // -2
    {{0, 0}, {0, 0}, {0, unit}, {unit, 0}},   // infinity
    {{1, 0}, {3, 0}, {9, 0}, {27, 0}},        // 3
};

/// True where the problem is a convolution as above, of one group and one sum per output, whose transformed weights fit
/// int16 and whose accumulators fit int32 times unit.
bool supports(const Conv2dProblem& problem);
/// True where kernels are deep enough for the transforms to pay.
bool suits(const Conv2dProblem& problem);

/// A panel of transformed weights is [positions][steps][tile_columns][2]. The two values of a step are both phases of a
/// channel or, at 3, phase 0 of two channels, zero where there are no channels.
struct WeightLayout {
  int64_t kernel_rows;
  int64_t channels;

  static constexpr int64_t step_size = 2 * tile_columns;

  int64_t row_steps(int position) const { return position == at_3 ? ceil_divide(channels, 2) : channels; }
  int64_t steps(int position) const { return kernel_rows * row_steps(position); }
  int64_t panel_size() const { return ((positions - 1) * steps(at_0) + steps(at_3)) * step_size; }
};

/// [panels][panel_size]
AlignedVector<int16_t> transform_weights(const Conv2dProblem& problem, const WeightLayout& layout);

}  // namespace qstep::kernels::winograd_rows
