#include "qstep/kernels/winograd/patch_places.h"

#include <algorithm>
#include <numeric>

namespace qstep::kernels::winograd {
namespace {

PatchExtent extent_of(const ImageLayout& output, const PixelCursor& patch) {
  return {.right = patch_outputs * patch.column + 1 < output.width,
          .bottom = patch_outputs * patch.row + 1 < output.height};
}

}  // namespace

ImageLayout patch_grid(const ImageLayout& output) {
  return ImageLayout::dense(output.batch, ceil_divide(output.height, patch_outputs),
                            ceil_divide(output.width, patch_outputs), 1);
}

PatchPlaces::PatchPlaces(const ImageLayout& output, Range patches) {
  const ImageLayout grid = patch_grid(output);
  const auto count = static_cast<int>(patches.end - patches.begin);
  const auto kind_of = [](PatchExtent e) {
    return e.right ? (e.bottom ? whole : at_bottom) : (e.bottom ? at_right : at_both);
  };

  PixelCursor patch(grid, patches.begin);
  for (int i = 0; i < count; ++i, patch.advance(grid)) ++begins_[kind_of(extent_of(output, patch)) + 1];
  std::inclusive_scan(begins_, begins_ + kinds + 1, begins_);

  int32_t next[kinds];
  std::copy_n(begins_, int{kinds}, next);
  int64_t first_outputs[most];
  patch = PixelCursor(grid, patches.begin);
  for (int i = 0; i < count; ++i, patch.advance(grid)) {
    const PatchExtent extent = extent_of(output, patch);
    const int32_t place = next[kind_of(extent)]++;
    places_[i] = place;
    extents_[place] = extent;
    first_outputs[place] = output.offset(patch.image, patch_outputs * patch.row, patch_outputs * patch.column);
  }

  int64_t* offset = offsets_;
  for (int place = 0; place < count; ++place) {
    for (int y = 0; y <= int{extents_[place].bottom}; ++y) {
      for (int x = 0; x <= int{extents_[place].right}; ++x) {
        *offset++ = first_outputs[place] + y * output.row_stride + x * output.pixel_stride;
      }
    }
  }
}

Range PatchPlaces::wanted_at(int position, int sides) const {
  const bool is_of_bottom = position / sides == sides - 1;
  const bool is_of_right = position % sides == sides - 1;
  return {begins_[is_of_bottom ? whole : at_bottom],
          begins_[is_of_right ? at_right : (is_of_bottom ? at_both : kinds)]};
}

}  // namespace qstep::kernels::winograd
