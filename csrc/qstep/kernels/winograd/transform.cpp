#include "qstep/kernels/winograd/transform.h"

#include <algorithm>
#include <array>
#include <limits>

#include "qstep/kernels/gemm/panel_gemm.h"

namespace qstep::kernels::winograd {
namespace {

/// G times one column of a kernel.
std::array<int32_t, patch_size> transform(int32_t g0, int32_t g1, int32_t g2) {
  return {2 * g0, g0 + g1 + g2, g0 - g1 + g2, 2 * g2};
}

/// The kernel whose taps lie `stride` apart.
std::array<int32_t, positions> transform_kernel(const int16_t* taps, int64_t stride) {
  std::array<int32_t, patch_size> columns[3];
  for (int x = 0; x < 3; ++x) columns[x] = transform(taps[x * stride], taps[(3 + x) * stride], taps[(6 + x) * stride]);
  std::array<int32_t, positions> result;
  for (size_t i = 0; i < patch_size; ++i) {
    std::ranges::copy(transform(columns[0][i], columns[1][i], columns[2][i]), result.begin() + patch_size * i);
  }
  return result;
}

}  // namespace

bool is_suitable(const Conv2dProblem& problem) {
  const core::Window& window = problem.window;
  const auto both = [](const int32_t(&values)[2], int32_t value) { return values[0] == value && values[1] == value; };
  return both(window.kernel, 3) && both(window.stride, 1) && both(window.dilation, 1) && problem.groups == 1 &&
         problem.requantization.combination.empty() &&
         accumulator_bound(kernels::as_gemm(problem)) <= std::numeric_limits<int32_t>::max() / 4;
}

std::optional<std::vector<int16_t>> transform_weights(const Conv2dProblem& problem) {
  const int64_t depth = problem.in_channels;
  const int64_t panels = ceil_divide(problem.out_channels, tile_columns);
  std::vector<int16_t> result(static_cast<size_t>(panels * positions * tile_columns * depth), 0);
  for (int64_t o = 0; o < problem.out_channels; ++o) {
    const int16_t* kernel = problem.weights.data() + o * 9 * depth;
    const int64_t first = o / tile_columns * positions * tile_columns + o % tile_columns;
    for (int64_t c = 0; c < depth; ++c) {
      const std::array<int32_t, positions> transformed = transform_kernel(kernel + c, depth);
      for (int p = 0; p < positions; ++p) {
        const int32_t weight = transformed[static_cast<size_t>(p)];
        if (weight < INT16_MIN || weight > INT16_MAX) return std::nullopt;
        result[static_cast<size_t>((first + p * tile_columns) * depth + c)] = static_cast<int16_t>(weight);
      }
    }
  }
  return result;
}

GemmProblem as_gemm(const Conv2dProblem& problem, std::span<const int16_t> transformed_weights, int32_t data_max) {
  return {.depth = problem.in_channels,
          .columns = static_cast<int64_t>(transformed_weights.size()) / problem.in_channels,
          .quant_max = data_max,
          .weights = transformed_weights};
}

}  // namespace qstep::kernels::winograd
