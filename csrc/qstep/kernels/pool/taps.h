#pragma once
// Which input positions a window has along one dimension (0: height, 1: width).
#include <algorithm>
#include <cstdint>

#include "qstep/core/window.h"
#include "qstep/kernels/pool/pool.h"

namespace qstep::kernels {

/// begin, begin + step, ... below end.
struct Taps {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t step = 1;

  int64_t count() const { return end <= begin ? 0 : (end - begin + step - 1) / step; }
};

/// The taps of window `index` inside an image of `size`.
inline Taps window_taps(const core::Window& window, int dimension, int64_t index, int64_t size) {
  const int64_t step = window.dilation[dimension];
  const int64_t start = index * window.stride[dimension] - window.padding[dimension];
  const int64_t outside = start < 0 ? (-start + step - 1) / step : 0;  // taps before the image
  return {start + outside * step, std::min(start + core::window_extent(window, dimension), size), step};
}

struct AverageTaps {
  Taps inside;
  int64_t counted = 0;  ///< along this dimension, without divisor_override
};

/// The same for average pooling, of `count` windows.
inline AverageTaps average_taps(const AvgPool2dProblem& problem, int dimension, int64_t index, int64_t size,
                                int64_t count) {
  if (problem.adaptive) {
    const Taps taps{index * size / count, ((index + 1) * size + count - 1) / count, 1};
    return {taps, taps.count()};
  }
  const core::Window& window = problem.window;
  const Taps taps = window_taps(window, dimension, index, size);
  if (!problem.count_include_pad) return {taps, taps.count()};
  const int64_t start = index * window.stride[dimension] - window.padding[dimension];
  const int64_t padded_end =
      size + window.padding[dimension + 2];  // a window of ceil_mode may reach beyond the padding
  return {taps, std::min<int64_t>(window.kernel[dimension], padded_end - start)};
}

inline int64_t divisor(const AvgPool2dProblem& problem, const AverageTaps& ys, const AverageTaps& xs) {
  return problem.divisor_override > 0 ? problem.divisor_override : ys.counted * xs.counted;
}

}  // namespace qstep::kernels
