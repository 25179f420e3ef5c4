#pragma once
// The rows of a convolution as a matrix product: row m is the window of output pixel m, [kernel_h][kernel_w][channels of
// the group]. Of the three ways to make them readable the cheapest that the layer allows is taken:
//
//   in place   A 1x1 window without padding is a pixel: its codes are read where they lie, at any stride.
//   band       The part of the image under a block of output pixels is copied once, padding written out. A window's taps
//              lie at the same distances from its first one everywhere in the band, so all windows share one array of
//              steps (panel_gemm.h) and overlap instead of being copied tap by tap. A step that would straddle two rows
//              of the window ends with the first of them instead, where that adds little: its last weights are zero.
//   staged     Each window is copied: where a step of the arithmetic would straddle two taps, a band would be larger, or the
//              arithmetic combines whole rows.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "qstep/kernels/conv2d/conv2d.h"
#include "qstep/kernels/conv2d/image_taps.h"
#include "qstep/kernels/gemm/panel_gemm.h"

namespace qstep::kernels {

/// What gathering needs to know of a convolution.
struct ConvolutionGeometry {
  core::Window window;
  int64_t group_channels = 0;  ///< in_channels / groups
  uint8_t zero_code = 0;
  int64_t row_padding = 0;  ///< codes that are read after each row of the window, for weights of zero; not if dilated

  int64_t row_codes() const { return window.kernel[1] * group_channels + row_padding; }
  int64_t depth() const { return window.kernel[0] * row_codes(); }
  /// Codes of a window that lie next to each other in a dense image.
  int64_t run() const { return window.dilation[1] == 1 ? row_codes() : group_channels; }
  /// Rows or columns of the image from a window's first tap to its last.
  bool is_unpadded_pixel() const {
    return depth() == group_channels && std::ranges::all_of(window.padding, [](int32_t p) { return p == 0; });
  }
};

/// Which part of the image is copied for how many output pixels.
class BandShape {
 public:
  BandShape(const ConvolutionGeometry& geometry, const ImageLayout& output, int64_t code_bytes, int64_t tile_rows)
      : geometry_(geometry), output_(output) {
    const auto fits = [&](int64_t pixels) { return codes(pixels) * code_bytes <= block_bytes; };
    along_row_ = output.width >= max_block_rows || !fits(tile_rows);
    const int64_t most = std::min(max_block_rows, along_row_ ? output.width : output.pixels());
    pixels_ = ceil_divide(std::max<int64_t>(most, 1), tile_rows) * tile_rows;
    while (pixels_ > max_block_rows || (pixels_ > tile_rows && !fits(pixels_))) pixels_ -= tile_rows;
  }

  /// Of a block. Where whole rows of the image would be too much, a block ends with its row of pixels.
  int64_t pixels() const { return pixels_; }
  bool is_along_row() const { return along_row_; }

  /// Columns of the image; the first one holds the first tap of a block's (or of any row's) first pixel.
  int64_t width() const { return width(pixels_); }
  int64_t codes() const { return codes(pixels_) + geometry_.row_padding; }

 private:
  int64_t width(int64_t pixels) const {
    const int64_t windows = std::max<int64_t>(along_row_ ? pixels : output_.width, 1);
    return (windows - 1) * geometry_.window.stride[1] + core::window_extent(geometry_.window, 1);
  }

  int64_t codes(int64_t pixels) const { return height(pixels) * width(pixels) * geometry_.group_channels; }

  /// Rows of images, wherever the block begins.
  int64_t height(int64_t pixels) const {
    if (along_row_) return core::window_extent(geometry_.window, 0);
    const auto spanned = [&](int64_t length) { return (pixels + length - 2) / std::max<int64_t>(length, 1) + 1; };
    const int64_t images = std::min(spanned(output_.height * output_.width), output_.batch);
    const int64_t rows = std::min(spanned(output_.width), output_.batch * output_.height);
    const int64_t stride = geometry_.window.stride[0];
    return rows * stride + images * std::max<int64_t>(core::window_extent(geometry_.window, 0) - stride, 0);
  }

  const ConvolutionGeometry& geometry_;
  const ImageLayout& output_;
  bool along_row_ = false;
  int64_t pixels_ = 0;
};

template <class Arithmetic>
class WindowRows {
 public:
  using Code = typename Arithmetic::Code;

  WindowRows(const ConvolutionGeometry& geometry, const Conv2dArguments& arguments, std::byte* scratch)
      : geometry_(geometry),
        input_(arguments.input_layout),
        output_(arguments.output_layout),
        codes_(arguments.input),
        taps_{input_, geometry.group_channels, geometry.zero_code},
        band_(shape(geometry, output_)),
        reading_(reading(geometry, band_)),
        scratch_(scratch, geometry.depth()) {
    if (reading_ == Reading::band) {
      set_band_steps();
    } else {
      Staged::set_steps(geometry.depth(), scratch_.steps());
    }
  }

  static size_t scratch_bytes(const ConvolutionGeometry& geometry, const ImageLayout& output) {
    const BandShape band = shape(geometry, output);
    switch (reading(geometry, band)) {
      case Reading::in_place:
        return RowScratch<Arithmetic>::bytes(geometry.depth(), 0);
      case Reading::band:
        return RowScratch<Arithmetic>::bytes(geometry.depth(), band.codes());
      case Reading::staged:
        break;
    }
    return RowScratch<Arithmetic>::bytes(geometry.depth(), Staged::codes(geometry.depth()));
  }

  int64_t count() const { return output_.pixels(); }
  const int32_t* steps() const { return scratch_.steps(); }

  int64_t block_end(int64_t first, int64_t limit) const {
    if (reading_ != Reading::band) return std::min(limit, first + Staged::block_rows(geometry_.depth()));
    const int64_t end = std::min(limit, first + band_.pixels());
    return band_.is_along_row() ? std::min(end, (first / output_.width + 1) * output_.width) : end;
  }

  void gather(int64_t first, int count, int64_t group, const Code** pointers) const {
    const uint8_t* image = codes_ + group * geometry_.group_channels;
    if (reading_ == Reading::band) return copy_band(first, count, image, pointers);
    if (geometry_.is_unpadded_pixel()) {
      gather_pixels(first, count, image, pointers);
    } else {
      copy_windows(first, count, image, pointers);
    }
    Staged::combine(scratch_.codes(), count, geometry_.depth());
  }

  void output_offsets(int64_t first, int count, int64_t* offsets) const {
    for_each_row_of_pixels(first, count, [&](int begin, int pixels, const PixelCursor& at) {
      fill_sequence(offsets + begin, pixels, output_.offset(at.image, at.row, at.column), output_.pixel_stride);
    });
  }

 private:
  using Staged = StagedRows<Arithmetic>;
  enum class Reading { in_place, band, staged };

  /// body(number of the first one, how many, where) for pixels first, ..., first + count - 1 of the output, those of a
  /// row of the image at once.
  template <class Body>
  void for_each_row_of_pixels(int64_t first, int count, Body body) const {
    PixelCursor at(output_, first);
    for (int begin = 0; begin < count;) {
      const int pixels = static_cast<int>(std::min<int64_t>(count - begin, output_.width - at.column));
      body(begin, pixels, at);
      begin += pixels;
      at.column += pixels - 1;
      at.advance(output_);
    }
  }

  void gather_pixels(int64_t first, int count, const uint8_t* codes, const Code** pointers) const {
    const core::Window& window = geometry_.window;
    for_each_row_of_pixels(first, count, [&](int begin, int pixels, const PixelCursor& at) {
      const int64_t offset = input_.offset(at.image, at.row * window.stride[0], at.column * window.stride[1]);
      Staged::gather(codes + offset, window.stride[1] * input_.pixel_stride, pixels, geometry_.depth(),
                     scratch_.codes() + begin * Staged::stride(geometry_.depth()), pointers + begin);
    });
  }

  void copy_windows(int64_t first, int count, const uint8_t* codes, const Code** pointers) const {
    PixelCursor at(output_, first);
    for (int r = 0; r < count; ++r, at.advance(output_)) {
      Code* row = scratch_.codes() + r * Staged::stride(geometry_.depth());
      copy_window(at, codes, row);
      Staged::clear_tail(row, geometry_.depth());
      pointers[r] = row;
    }
  }

  static BandShape shape(const ConvolutionGeometry& geometry, const ImageLayout& output) {
    return BandShape(geometry, output, sizeof(Code), Arithmetic::tile_rows);
  }

  static Reading reading(const ConvolutionGeometry& geometry, const BandShape& band) {
    if (geometry.is_unpadded_pixel()) {
      return Staged::is_read_in_place(geometry.depth()) ? Reading::in_place : Reading::staged;
    }
    if (combines_rows<Arithmetic>) return Reading::staged;
    const bool is_preferred = geometry.row_padding > 0 || band.codes() <= band.pixels() * geometry.depth();
    return is_preferred && geometry.run() % Arithmetic::depth_run == 0 ? Reading::band : Reading::staged;
  }

  void set_band_steps() const {
    const core::Window& window = geometry_.window;
    int32_t* steps = scratch_.steps();
    for (int64_t i = 0; i < window.kernel[0]; ++i) {
      const int64_t row = i * window.dilation[0] * band_.width() * geometry_.group_channels;
      for (int64_t k = 0; k < geometry_.row_codes(); k += Arithmetic::depth_step) {
        const int64_t run = k / geometry_.run() * window.dilation[1] * geometry_.group_channels;
        *steps++ = static_cast<int32_t>(row + run + k % geometry_.run());
      }
    }
  }

  /// Image by image, the rows under the block's output rows, one below the other.
  void copy_band(int64_t first, int count, const uint8_t* codes, const Code** pointers) const {
    const core::Window& window = geometry_.window;
    const int64_t channels = geometry_.group_channels;
    const int64_t pitch = band_.width() * channels;
    const int64_t first_column = band_.is_along_row() ? first % output_.width * window.stride[1] : 0;
    const int64_t columns = band_.is_along_row()
                                ? (count - 1) * window.stride[1] + core::window_extent(geometry_.window, 1)
                                : band_.width();
    Code* band = scratch_.codes();
    int64_t image = 0;
    int64_t top = 0;
    int64_t bottom = 0;
    const auto copy_rows = [&] {
      for (int64_t row = top; row < bottom; ++row, band += pitch) {
        taps_.copy(codes, image, row - window.padding[0], first_column - window.padding[1], columns, 1, band);
      }
    };
    for_each_row_of_pixels(first, count, [&](int begin, int pixels, const PixelCursor& at) {
      const int64_t row = at.row * window.stride[0];
      if (begin == 0 || at.image != image) {
        copy_rows();
        image = at.image;
        top = row;
      }
      const Code* first_tap = band + (row - top) * pitch + (at.column * window.stride[1] - first_column) * channels;
      fill_sequence(pointers + begin, pixels, first_tap, window.stride[1] * channels);
      bottom = row + core::window_extent(geometry_.window, 0);
    });
    copy_rows();
  }

  void copy_window(const PixelCursor& at, const uint8_t* codes, Code* output) const {
    const core::Window& window = geometry_.window;
    const int64_t y = at.row * window.stride[0] - window.padding[0];
    const int64_t x = at.column * window.stride[1] - window.padding[1];
    for (int64_t i = 0; i < window.kernel[0]; ++i) {
      taps_.copy(codes, at.image, y + i * window.dilation[0], x, window.kernel[1], window.dilation[1], output);
      output += window.kernel[1] * geometry_.group_channels;
    }
  }

  const ConvolutionGeometry& geometry_;
  const ImageLayout& input_;
  const ImageLayout& output_;
  const uint8_t* codes_;
  ImageTaps<Arithmetic> taps_;
  BandShape band_;
  Reading reading_;
  RowScratch<Arithmetic> scratch_;
};

}  // namespace qstep::kernels
