#pragma once
// Tensors in the memory layouts that kernels see, and back.
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/guarded_allocator.h"
#include "qstep/core/error.h"
#include "qstep/kernels/layout.h"

namespace qstep::kernels::test {

/// Where a tensor lies: densely, or as a slice of larger images, with gaps of odd sizes between pixels, rows and
/// images.
inline ImageLayout make_layout(int64_t batch, int64_t height, int64_t width, int64_t channels, bool sliced) {
  ImageLayout layout = ImageLayout::dense(batch, height, width, channels);
  if (sliced) {
    layout.pixel_stride = channels + 3;
    layout.row_stride = width * layout.pixel_stride + 5;
    layout.image_stride = height * layout.row_stride + 7;
  }
  return layout;
}

/// Memory that ends with the tensor's last element, so that an access beyond it ends the test; gaps hold `filler`.
template <class T>
class Strided {
 public:
  Strided(const ImageLayout& layout, T filler) : layout_(layout), filler_(filler) {
    const bool empty = layout.pixels() * layout.channels == 0;
    const int64_t size =
        empty ? 0 : layout.offset(layout.batch - 1, layout.height - 1, layout.width - 1) + layout.channels;
    memory_.assign(static_cast<size_t>(size), filler);
  }

  const ImageLayout& layout() const { return layout_; }
  T* data() { return memory_.data(); }

  /// Calls body(index in logical NCHW order, element).
  template <class Body>
  void for_each(Body body) {
    size_t index = 0;
    for (int64_t n = 0; n < layout_.batch; ++n) {
      for (int64_t c = 0; c < layout_.channels; ++c) {
        for (int64_t y = 0; y < layout_.height; ++y) {
          for (int64_t x = 0; x < layout_.width; ++x) {
            body(index++, memory_[static_cast<size_t>(layout_.offset(n, y, x) + c)]);
          }
        }
      }
    }
  }

  template <class U>
  void assign(const std::vector<U>& logical) {
    for_each([&](size_t i, T& element) { element = static_cast<T>(logical[i]); });
  }

  /// Empty where the elements equal `expected` (logical NCHW) and the gaps are untouched, else the first difference.
  template <class U>
  std::string difference(const std::vector<U>& expected) {
    std::string result;
    std::vector<bool> used(memory_.size(), false);
    for_each([&](size_t i, T& element) {
      used[static_cast<size_t>(&element - memory_.data())] = true;
      if (result.empty() && static_cast<int64_t>(element) != static_cast<int64_t>(expected[i])) {
        result = fmt::format("element {} of {}: expected {}, got {}", i, expected.size(),
                             static_cast<int64_t>(expected[i]), static_cast<int64_t>(element));
      }
    });
    for (size_t i = 0; i < memory_.size() && result.empty(); ++i) {
      if (!used[i] && memory_[i] != filler_) result = fmt::format("memory at {} outside the tensor was overwritten", i);
    }
    return result;
  }

 private:
  ImageLayout layout_;
  T filler_;
  std::vector<T, GuardedAllocator<T>> memory_;
};

}  // namespace qstep::kernels::test
