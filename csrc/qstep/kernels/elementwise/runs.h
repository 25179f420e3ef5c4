#pragma once
// Runs of neighbouring values, which elementwise kernels work on.
#include <cstdint>

#include "qstep/kernels/elementwise/bilinear.h"
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

/// body(a, b, output, values); b is one value for all of them where b_channel_stride is 0.
template <class Body>
void for_each_bilinear_run(const BilinearArguments& arguments, Range items, Body body) {
  const ImageLayout& a = arguments.a_layout;
  const ImageLayout& b = arguments.b_layout;
  const ImageLayout& output = arguments.output_layout;
  const bool b_has_runs = b.pixel_stride == (arguments.b_channel_stride == 0 ? 0 : output.channels);
  for_each_run(output, items, has_dense_rows(a) && has_dense_rows(output) && b_has_runs,
               [&](int64_t image, int64_t row, int64_t column, int64_t count) {
                 body(arguments.a + a.offset(image, row, column), arguments.b + b.offset(image, row, column),
                      arguments.output + output.offset(image, row, column), count);
               });
}

}  // namespace qstep::kernels
