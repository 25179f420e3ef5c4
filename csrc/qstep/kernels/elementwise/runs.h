#pragma once
// Runs of neighbouring values, which elementwise kernels work on.
#include <cstdint>

#include "qstep/kernels/layout.h"

namespace qstep::kernels {

/// body(image, row, column, values) for the runs of contiguous values of work items: whole rows where `whole_rows`,
/// else pixels.
template <class Body>
void for_each_run(const ImageLayout& layout, Range items, bool whole_rows, Body body) {
  if (layout.width * layout.channels == 0) return;
  for (int64_t item = items.begin; item < items.end; ++item) {
    const int64_t image = item / layout.height;
    const int64_t row = item % layout.height;
    if (whole_rows) {
      body(image, row, int64_t{0}, layout.width * layout.channels);
    } else {
      for (int64_t column = 0; column < layout.width; ++column) body(image, row, column, layout.channels);
    }
  }
}

inline bool has_dense_rows(const ImageLayout& layout) { return layout.pixel_stride == layout.channels; }

}  // namespace qstep::kernels
