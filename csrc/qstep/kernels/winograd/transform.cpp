#include "qstep/kernels/winograd/transform.h"

#include <algorithm>
#include <array>
#include <limits>

#include "qstep/kernels/weight_factor.h"

namespace qstep::kernels::winograd {
namespace {

constexpr int patch_size = Stride1::patch_size;

using Transformed = std::array<int16_t, positions>;

/// G times one column of a kernel.
std::array<int, patch_size> transform_column(int g0, int g1, int g2) {
  return {2 * g0, g0 + g1 + g2, g0 - g1 + g2, 2 * g2};
}

Transformed transform_kernel(const Conv2dProblem& problem, int64_t output, int64_t channel) {
  const int16_t* kernel = problem.weights.data() + output * kernel_taps * problem.in_channels + channel;
  const auto tap = [&](int y, int x) { return kernel[(3 * y + x) * problem.in_channels]; };
  std::array<int, patch_size> columns[3];
  for (int x = 0; x < 3; ++x) columns[x] = transform_column(tap(0, x), tap(1, x), tap(2, x));
  Transformed result;
  for (size_t y = 0; y < patch_size; ++y) {
    std::ranges::copy(transform_column(columns[0][y], columns[1][y], columns[2][y]), result.begin() + patch_size * y);
  }
  return result;
}

/// Calls body(output, channel, place) for the weights of a panel, of which `place` is that at one position.
template <class Body>
void for_each_weight(const WeightLayout& layout, int64_t panel, Body body) {
  const int64_t first = panel * layout.columns;
  const int64_t last = std::min(first + layout.columns, layout.out_channels);
  for (int64_t o = first; o < last; ++o) {
    for (int64_t c = 0; c < layout.in_channels; ++c) {
      const int64_t step = c / layout.depth_step;
      body(o, c, (step * layout.columns + o - first) * layout.depth_step + c % layout.depth_step);
    }
  }
}

}  // namespace

template <class Scheme>
bool fits_scheme(const Conv2dProblem& problem) {
  const core::Window& window = problem.window;
  const auto both = [](const int32_t(&values)[2], int32_t value) { return values[0] == value && values[1] == value; };
  return both(window.kernel, 3) && both(window.stride, Scheme::stride) && both(window.dilation, 1) &&
         problem.groups == 1 && problem.requantization.combination.empty() && fit<int8_t>(problem.weights) &&
         accumulator_bound(as_gemm(problem)) <= std::numeric_limits<int32_t>::max() / Scheme::unit;
}

template bool fits_scheme<Stride1>(const Conv2dProblem& problem);
template bool fits_scheme<Stride2>(const Conv2dProblem& problem);

AlignedVector<int8_t> pack_kernels(const Conv2dProblem& problem, const WeightLayout& layout) {
  AlignedVector<int8_t> packed(static_cast<size_t>(layout.panels() * layout.kernels_size()), 0);
  for (int64_t panel = 0; panel < layout.panels(); ++panel) {
    int8_t* kernels = packed.data() + panel * layout.kernels_size();
    for_each_weight(layout, panel, [&](int64_t o, int64_t c, int64_t place) {
      const int16_t* taps = problem.weights.data() + o * kernel_taps * layout.in_channels + c;
      int8_t* to = kernels + place / layout.lanes * kernel_taps * layout.lanes + place % layout.lanes;
      for (int64_t t = 0; t < kernel_taps; ++t) {
        to[t * layout.lanes] = static_cast<int8_t>(taps[t * layout.in_channels]);
      }
    });
  }
  return packed;
}

std::vector<int16_t> transform_panel(const Conv2dProblem& problem, const WeightLayout& layout, int64_t panel) {
  std::vector<int16_t> result(static_cast<size_t>(positions * layout.position_size()), 0);
  for_each_weight(layout, panel, [&](int64_t o, int64_t c, int64_t place) {
    const Transformed weights = transform_kernel(problem, o, c);
    for (int64_t p = 0; p < positions; ++p) {
      result[static_cast<size_t>(p * layout.position_size() + place)] = weights[static_cast<size_t>(p)];
    }
  });
  return result;
}

bool InBytes::fits(const Conv2dProblem& problem) {
  if (4 * problem.quant_max > UINT8_MAX) return false;
  for (int64_t o = 0; o < problem.out_channels; ++o) {
    for (int64_t c = 0; c < problem.in_channels; ++c) {
      const Transformed weights = transform_kernel(problem, o, c);
      const auto [smallest, largest] = std::ranges::minmax(weights);
      if (smallest < INT8_MIN || largest > INT8_MAX) return false;
    }
  }
  return true;
}

}  // namespace qstep::kernels::winograd
