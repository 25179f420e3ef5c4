#pragma once
// How operands lie in memory.
#include <cstddef>
#include <cstdint>

namespace qstep::kernels {

/// An image tensor in NHWC order: the channels of a pixel are contiguous, everything else has a stride in elements, so
/// a slice of channels, rows or images is a layout, not a copy.
struct ImageLayout {
  int64_t batch = 0;
  int64_t height = 0;
  int64_t width = 0;
  int64_t channels = 0;
  int64_t image_stride = 0;
  int64_t row_stride = 0;
  int64_t pixel_stride = 0;

  static ImageLayout dense(int64_t batch, int64_t height, int64_t width, int64_t channels) {
    return {batch, height, width, channels, height * width * channels, width * channels, channels};
  }

  int64_t pixels() const { return batch * height * width; }

  int64_t offset(int64_t image, int64_t row, int64_t column) const {
    return image * image_stride + row * row_stride + column * pixel_stride;
  }
};

/// Walks over the pixels of a layout in row-major order.
struct PixelCursor {
  int64_t image;
  int64_t row;
  int64_t column;

  PixelCursor(const ImageLayout& layout, int64_t pixel)
      : image(pixel / (layout.height * layout.width)),
        row(pixel / layout.width % layout.height),
        column(pixel % layout.width) {}

  void advance(const ImageLayout& layout) {
    if (++column < layout.width) return;
    column = 0;
    if (++row < layout.height) return;
    row = 0;
    ++image;
  }
};

/// For a >= 0 and b > 0.
constexpr int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// first, first + step, ...: numbers or pointers. Four at a time, which gcc does not do on its own: a layer with few
/// channels has as many rows as products per row.
template <class T>
void fill_sequence(T* values, int64_t count, T first, int64_t step) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4, first += 4 * step) {
    values[i] = first;
    values[i + 1] = first + step;
    values[i + 2] = first + 2 * step;
    values[i + 3] = first + 3 * step;
  }
  for (; i < count; ++i, first += step) values[i] = first;
}

/// Work items [begin, end) of one call. An operation states how many items it has; any partition into ranges, run in
/// any order or at once, gives the same result.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
};

/// Where accumulators go: requantized to `codes`, or as they are to `accumulators`; the other one is null.
struct Output {
  uint8_t* codes = nullptr;
  int32_t* accumulators = nullptr;
};

/// Scratch memory and packed weights are aligned to a cache line.
inline constexpr size_t memory_alignment = 64;

}  // namespace qstep::kernels
