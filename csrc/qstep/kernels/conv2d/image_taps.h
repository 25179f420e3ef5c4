#pragma once
#include <algorithm>
#include <cstdint>

#include "qstep/kernels/layout.h"

namespace qstep::kernels {

/// Copies taps of an image, of which any may be outside, as codes of an Arithmetic (gemm/panel_gemm.h).
template <class Arithmetic>
struct ImageTaps {
  using Code = typename Arithmetic::Code;

  const ImageLayout& layout;
  int64_t channels;  ///< of a tap
  uint8_t zero_code;

  /// `count` taps of image row y, from column x on. Neighbouring pixels are copied as one run.
  void copy(const uint8_t* codes, int64_t image, int64_t y, int64_t x, int64_t count, int64_t dilation,
            Code* output) const {
    if (y < 0 || y >= layout.height) {
      copy_padding(count * channels, output);
      return;
    }
    const uint8_t* row = codes + layout.offset(image, y, 0);
    if (dilation == 1 && layout.pixel_stride == channels) {
      const int64_t begin = std::clamp<int64_t>(-x, 0, count);
      const int64_t end = std::clamp<int64_t>(layout.width - x, begin, count);
      copy_padding(begin * channels, output);
      if (begin < end) {
        Arithmetic::stage(row + (x + begin) * channels, (end - begin) * channels, output + begin * channels);
      }
      copy_padding((count - end) * channels, output + end * channels);
      return;
    }
    for (int64_t j = 0; j < count; ++j, x += dilation, output += channels) {
      if (x < 0 || x >= layout.width) {
        copy_padding(channels, output);
      } else {
        Arithmetic::stage(row + x * layout.pixel_stride, channels, output);
      }
    }
  }

 private:
  void copy_padding(int64_t count, Code* output) const {
    if constexpr (requires { Arithmetic::stage_copies(zero_code, count, output); }) {
      Arithmetic::stage_copies(zero_code, count, output);
    } else {
      std::fill_n(output, count, zero_code);
    }
  }
};

}  // namespace qstep::kernels
