#include <gtest/gtest.h>

#include "qstep/core/window.h"

namespace qstep::core {
namespace {

/// Counts the positions at which a window lies wholly inside the padded image.
int64_t count_positions(const Window& window, int dimension, int64_t size) {
  int64_t count = 0;
  const int64_t end = size + window.padding[dimension + 2];
  for (int64_t start = -window.padding[dimension];; start += window.stride[dimension]) {
    int64_t last = start;
    for (int tap = 1; tap < window.kernel[dimension]; ++tap) last += window.dilation[dimension];
    if (last >= end) return count;
    ++count;
  }
}

TEST(OutputSize, CountsTheWindowsThatFit) {
  for (int kernel = 1; kernel <= 4; ++kernel) {
    for (int stride = 1; stride <= 3; ++stride) {
      for (int dilation = 1; dilation <= 3; ++dilation) {
        for (int before = 0; before <= 2; ++before) {
          for (int after = 0; after <= 2; ++after) {
            for (int64_t size = 0; size <= 12; ++size) {
              const Window window{{1, kernel}, {1, stride}, {0, before, 0, after}, {1, dilation}};
              ASSERT_EQ(output_size(window, 1, size), count_positions(window, 1, size))
                  << "kernel " << kernel << " stride " << stride << " dilation " << dilation << " padding " << before
                  << ", " << after << " size " << size;
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace qstep::core
