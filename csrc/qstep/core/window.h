#pragma once
// The sliding window of convolutions and pools.
#include <cstdint>

namespace qstep::core {

struct Window {  ///< pairs are {height, width}
  int32_t kernel[2] = {1, 1};
  int32_t stride[2] = {1, 1};
  int32_t padding[4] = {0, 0, 0, 0};  ///< top, left, bottom, right
  int32_t dilation[2] = {1, 1};

  friend bool operator==(const Window&, const Window&) = default;
};

/// Input positions that one window spans along `dimension` (0: height, 1: width), holes of the dilation included.
inline int64_t window_extent(const Window& window, int dimension) {
  return int64_t{window.dilation[dimension]} * (window.kernel[dimension] - 1) + 1;
}

/// Output size of a convolution (or a pool without ceil_mode) along `dimension`; 0 where the window does not fit once.
inline int64_t output_size(const Window& window, int dimension, int64_t input_size) {
  const int64_t padded = input_size + window.padding[dimension] + window.padding[dimension + 2];
  const int64_t room = padded - window_extent(window, dimension);
  return room < 0 ? 0 : room / window.stride[dimension] + 1;
}

}  // namespace qstep::core
