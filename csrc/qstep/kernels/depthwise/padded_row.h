#pragma once
// A row of an image with padding around it, as pointers to its pixels: nothing is copied.
#include <algorithm>
#include <cstdint>

#include "qstep/kernels/layout.h"

namespace qstep::kernels {

/// pixels[x], x < count: where column x of row y of the padded image lies, with `left` columns of padding before the first.
/// What is outside the image, row or column, is `zero_pixel`.
inline void point_at_pixels(const uint8_t* input, const ImageLayout& layout, int64_t image, int64_t y, int64_t left,
                            const uint8_t* zero_pixel, int64_t count, const uint8_t** pixels) {
  const bool is_inside = 0 <= y && y < layout.height;
  const int64_t begin = is_inside ? std::min(left, count) : count;
  const int64_t end = is_inside ? std::min(begin + layout.width, count) : count;
  std::fill(pixels, pixels + begin, zero_pixel);
  fill_sequence(pixels + begin, end - begin, input + (is_inside ? layout.offset(image, y, 0) : 0), layout.pixel_stride);
  std::fill(pixels + end, pixels + count, zero_pixel);
}

}  // namespace qstep::kernels
