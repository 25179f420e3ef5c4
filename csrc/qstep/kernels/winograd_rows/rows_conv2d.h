#pragma once
// The driver of Winograd's algorithm along rows (transform.h), whatever its instruction set.
//
// Outputs are computed row by row. The rows of the image that a row of outputs sees are kept transformed, each where the
// row `kernel_rows` above it was, so that each is transformed once for all outputs that see it.
//
// An Arithmetic does the work on data and weights that are transformed:
//   tile_groups                                     groups multiplied at a time
//   input_groups                                    groups transformed at a time
//   transform_input(codes, channels, groups, data, position_stride)
//       of whole input_groups, from codes[pairs][phases][channels]; reads up to code_slack bytes more
//   multiply(product)
//   transform_output(sums, groups, accumulators)    accumulators[groups * group_outputs][tile_columns]: the outputs
//   finish(epilogue, tile, output)
// and may do the last two in registers:
//   makes_codes(epilogue)                           true where it can
//   transform_to_codes(sums, epilogue, where, codes)    where: rows, channels and row offsets, no accumulators
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>

#include "qstep/core/error.h"
#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/conv2d/conv2d.h"
#include "qstep/kernels/conv2d/image_taps.h"
#include "qstep/kernels/winograd_rows/transform.h"

namespace qstep::kernels::winograd_rows {

/// Data of a group at a position: [most_channels][phases] or, at 3, of phase 0 alone, [most_channels] and as much unused.
/// Zero where there are no channels.
inline constexpr int64_t group_data = most_channels * phases;

inline constexpr int64_t code_slack = 8;

/// sums[positions][tile_groups][tile_columns] = start[positions][tile_columns] + data * weights, for one tile and panel.
struct Product {
  std::span<const int16_t* const> steps;       ///< where each finds its data of group 0 and position 0
  std::span<const int16_t* const> steps_at_3;  ///< the same, where the position is 3
  int64_t offset;                              ///< from there to the first group of the tile
  int64_t position_stride;
  int groups;
  const int16_t* weights;
  const int32_t* start;
  int32_t* sums;
};

template <class Arithmetic>
class RowsConv2d final : public PackedConv2d {
 public:
  explicit RowsConv2d(const Conv2dProblem& problem)
      : window_(problem.window),
        zero_code_(static_cast<uint8_t>(problem.zero_code)),
        layout_{problem.window.kernel[0], problem.in_channels},
        out_channels_(problem.out_channels),
        weights_(transform_weights(problem, layout_)),
        starts_(static_cast<size_t>(panels() * start_size), 0),
        epilogue_(problem.requantization, problem.out_channels, accumulator_bound(as_gemm(problem))) {
    for (int64_t n = 0; n < out_channels_; ++n) {
      const int64_t start = n / tile_columns * start_size + at_1 * tile_columns;  // its sum is part of every output
      starts_[static_cast<size_t>(start + n % tile_columns)] = unit * folded_bias(as_gemm(problem), n);
    }
  }

  /// An item is a row of the output.
  int64_t work_items(const ImageLayout& output) const override { return output.batch * output.height; }

  size_t scratch_bytes(const ImageLayout& output) const override {
    return static_cast<size_t>(data_size(output)) * sizeof(int16_t) +
           static_cast<size_t>(columns(output) * layout_.channels + code_slack);
  }

  size_t packed_bytes() const override { return weights_.size() * sizeof(int16_t) + starts_.size() * sizeof(int32_t); }

  void run(const Conv2dArguments& arguments, Range items, std::byte* scratch) const override {
    const ImageLayout& output = arguments.output_layout;
    const ImageTaps<Bytes> taps{arguments.input_layout, layout_.channels, zero_code_};
    auto* data = reinterpret_cast<int16_t*>(scratch);
    auto* codes = reinterpret_cast<uint8_t*>(data + data_size(output));
    int64_t image = -1;
    int64_t next = 0;  // row of the image to be transformed
    for (int64_t item = items.begin; item < items.end; ++item) {
      const int64_t top = item % output.height * window_.stride[0] - window_.padding[0];
      if (image != item / output.height) {
        image = item / output.height;
        next = top;
      }
      for (next = std::max(next, top); next < top + layout_.kernel_rows; ++next) {
        taps.copy(arguments.input, image, next, -window_.padding[1], columns(output), 1, codes);
        Arithmetic::transform_input(codes, layout_.channels, staged_groups(output),
                                    data + place(next) * row_size(output), position_stride(output));
      }
      convolve(top, data, output.offset(image, item % output.height, 0), output, arguments.output);
    }
  }

 private:
  /// The Arithmetic of ImageTaps.
  struct Bytes {
    using Code = uint8_t;
    static void stage(const uint8_t* input, int64_t count, uint8_t* output) {
      std::memcpy(output, input, static_cast<size_t>(count));
    }
  };

  static constexpr int64_t tile_groups = Arithmetic::tile_groups;
  static constexpr int64_t start_size = positions * tile_columns;

  int64_t panels() const { return ceil_divide(out_channels_, tile_columns); }

  static int64_t groups(const ImageLayout& output) { return ceil_divide(output.width, group_outputs); }
  static int64_t staged_groups(const ImageLayout& output) {
    return ceil_divide(groups(output), Arithmetic::input_groups) * Arithmetic::input_groups;
  }

  /// Of the padded image, under the groups.
  static int64_t columns(const ImageLayout& output) {
    return ((staged_groups(output) - 1) * group_outputs + group_pairs) * phases;
  }

  // Of transformed data, [kernel_rows][positions][staged_groups][group_data].
  static int64_t position_stride(const ImageLayout& output) { return staged_groups(output) * group_data; }
  static int64_t row_size(const ImageLayout& output) { return positions * position_stride(output); }
  int64_t data_size(const ImageLayout& output) const { return layout_.kernel_rows * row_size(output); }

  /// Where row y of the image is kept; y may be in the padding above.
  int64_t place(int64_t y) const { return (y % layout_.kernel_rows + layout_.kernel_rows) % layout_.kernel_rows; }

  /// The row of outputs whose windows begin with row `top` of the image, from `offset` on in the output.
  void convolve(int64_t top, const int16_t* data, int64_t offset, const ImageLayout& layout,
                const Output& output) const {
    const int16_t* steps[most_rows * most_channels];
    const int16_t* steps_at_3[most_rows * most_channels];
    for (int64_t i = 0; i < layout_.kernel_rows; ++i) {
      const int16_t* row = data + place(top + i) * row_size(layout);
      fill_sequence(steps + i * layout_.row_steps(at_0), layout_.row_steps(at_0), row, 2);
      fill_sequence(steps_at_3 + i * layout_.row_steps(at_3), layout_.row_steps(at_3), row, 2);
    }
    alignas(memory_alignment) int32_t sums[positions * tile_groups * tile_columns];
    const int64_t count = groups(layout);
    const int64_t tiles = ceil_divide(count, tile_groups);
    for (int64_t panel = 0; panel < panels(); ++panel) {
      for (int64_t t = 0; t < tiles; ++t) {  // of about the same size
        const int64_t first = count * t / tiles;
        const int64_t end = count * (t + 1) / tiles;
        Arithmetic::multiply({.steps = {steps, static_cast<size_t>(layout_.steps(at_0))},
                              .steps_at_3 = {steps_at_3, static_cast<size_t>(layout_.steps(at_3))},
                              .offset = first * group_data,
                              .position_stride = position_stride(layout),
                              .groups = static_cast<int>(end - first),
                              .weights = weights_.data() + panel * layout_.panel_size(),
                              .start = starts_.data() + panel * start_size,
                              .sums = sums});
        const int64_t column = first * group_outputs;
        int64_t offsets[tile_groups * group_outputs];
        const int64_t rows = std::min(end * group_outputs, layout.width) - column;
        fill_sequence(offsets, rows, offset + column * layout.pixel_stride, layout.pixel_stride);
        const int64_t channel = panel * tile_columns;
        finish(sums,
               {.rows = static_cast<int>(rows),
                .first_channel = channel,
                .channels = static_cast<int>(std::min<int64_t>(tile_columns, out_channels_ - channel)),
                .row_offsets = offsets},
               output);
      }
    }
  }

  void finish(const int32_t* sums, AccumulatorTile tile, const Output& output) const {
    if constexpr (requires { Arithmetic::makes_codes(epilogue_); }) {
      if (Arithmetic::makes_codes(epilogue_)) {
        return Arithmetic::transform_to_codes(sums, epilogue_, tile, output.codes);
      }
    }
    alignas(memory_alignment) int32_t accumulators[tile_groups * group_outputs * tile_columns];
    Arithmetic::transform_output(sums, static_cast<int>(ceil_divide(tile.rows, group_outputs)), accumulators);
    tile.accumulators = accumulators;
    Arithmetic::finish(epilogue_, tile, output);
  }

  core::Window window_;
  uint8_t zero_code_;
  WeightLayout layout_;
  int64_t out_channels_;
  AlignedVector<int16_t> weights_;  // [panels][panel_size]
  AlignedVector<int32_t>
      starts_;  // what sums begin with, unit times the folded bias; [panels][positions][tile_columns]
  Epilogue epilogue_;
};

template <class Arithmetic>
std::unique_ptr<PackedConv2d> pack_rows_conv2d(const Conv2dProblem& problem) {
  validate(problem);
  require(supports(problem), "winograd_rows: the kernel does not take this problem");
  return std::make_unique<RowsConv2d<Arithmetic>>(problem);
}

}  // namespace qstep::kernels::winograd_rows
