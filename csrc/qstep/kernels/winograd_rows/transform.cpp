#include "qstep/kernels/winograd_rows/transform.h"

#include <algorithm>
#include <cstdlib>
#include <limits>

namespace qstep::kernels::winograd_rows {
namespace {

/// `taps` of a row of a kernel lie `channels` apart.
int16_t transform_row(const int16_t* taps, int64_t channels, int position, int phase) {
  int sum = 0;
  for (int j = phase; j < kernel_columns; j += phases) {
    sum += weight_matrix[position][j / phases][phase] * taps[j * channels];
  }
  return static_cast<int16_t>(sum);
}

/// One of the two values of a step, for all columns of a panel.
struct StepHalf {
  int64_t row;
  int64_t channel;
  int phase;

  StepHalf(const WeightLayout& layout, int position, int64_t step, int half) : row(step / layout.row_steps(position)) {
    const int64_t in_row = step % layout.row_steps(position);
    channel = position == at_3 ? 2 * in_row + half : in_row;
    phase = position == at_3 ? 0 : half;
  }
};

}  // namespace

bool supports(const Conv2dProblem& problem) {
  const core::Window& window = problem.window;
  const auto largest_weight = [&] {
    int largest = 0;
    for (const int16_t w : problem.weights) largest = std::max(largest, std::abs(w));
    return largest;
  };
  return window.kernel[1] == kernel_columns && window.stride[1] == phases && window.kernel[0] <= most_rows &&
         window.dilation[0] == 1 && window.dilation[1] == 1 && problem.groups == 1 &&
         problem.in_channels <= most_channels && problem.requantization.combination.empty() &&
         unit * largest_weight() <= INT16_MAX &&
         accumulator_bound(as_gemm(problem)) <= std::numeric_limits<int32_t>::max() / unit;
}

bool suits(const Conv2dProblem& problem) {
  constexpr int64_t least_row_taps = 7;  // rows of a kernel times channels; fewer save less than the transforms take
  return problem.window.kernel[0] * problem.in_channels >= least_row_taps;
}

AlignedVector<int16_t> transform_weights(const Conv2dProblem& problem, const WeightLayout& layout) {
  const int64_t panels = ceil_divide(problem.out_channels, tile_columns);
  AlignedVector<int16_t> packed(static_cast<size_t>(panels * layout.panel_size()), 0);
  int16_t* step = packed.data();
  for (int64_t first = 0; first < problem.out_channels; first += tile_columns) {
    const int64_t columns = std::min<int64_t>(tile_columns, problem.out_channels - first);
    for (int p = 0; p < positions; ++p) {
      for (int64_t s = 0; s < layout.steps(p); ++s, step += WeightLayout::step_size) {
        for (int half = 0; half < 2; ++half) {
          const StepHalf at(layout, p, s, half);
          if (at.channel >= layout.channels) continue;
          for (int64_t n = 0; n < columns; ++n) {
            const int64_t row = (first + n) * layout.kernel_rows + at.row;
            const int16_t* taps = problem.weights.data() + row * kernel_columns * layout.channels + at.channel;
            step[2 * n + half] = transform_row(taps, layout.channels, p, at.phase);
          }
        }
      }
    }
  }
  return packed;
}

}  // namespace qstep::kernels::winograd_rows
