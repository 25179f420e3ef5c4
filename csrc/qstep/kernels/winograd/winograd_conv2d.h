#pragma once
// The driver of the Winograd kernels (transform.h), whatever their instruction set: the arithmetic of the blocked matrix
// product (gemm/panel_gemm.h) does the products of the 16 positions.
//
// Patches are taken in chunks whose transformed data stays in the second-level cache. Panel by panel, their sums at all
// positions are computed, and transformed to accumulators and given to the epilogue while they are in cache. The rows of
// the matrix product are patches, its depth is the input channels.
//
// A Transform moves codes to data and sums to accumulators:
//   using Gemm                  the arithmetic that takes its data
//   min_in_channels
//   data_offset(quant_max)      added to data but for that of the centre, so that Gemm can take it
//   data_max(quant_max)         the largest data for Gemm
//   transform_input(row, channels, data_offset, data, patch_stride, position_stride)
//   transform_output(sums, position_stride, extents, count, bias, accumulators)
//       accumulators[kept outputs][tile_columns] = (A sums A^T + bias) / 4 patch by patch, row-major; returns their number
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

#include "qstep/core/error.h"
#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/conv2d/conv2d.h"
#include "qstep/kernels/gemm/panel_gemm.h"
#include "qstep/kernels/winograd/transform.h"

namespace qstep::kernels::winograd {

template <class Transform>
class WinogradConv2d final : public PackedConv2d {
 public:
  using Gemm = typename Transform::Gemm;
  using Code = typename Gemm::Code;

  explicit WinogradConv2d(const Conv2dProblem& problem) : WinogradConv2d(problem, transform_weights(problem).value()) {}

  /// An item is a few patches times all panels, or all patches times one panel where that makes more items.
  int64_t work_items(const ImageLayout& output) const override {
    const int64_t tiles = ceil_divide(patch_grid(output).pixels(), Gemm::tile_rows);
    return tiles == 0 ? 0 : std::max(tiles, panels_);
  }

  size_t scratch_bytes(const ImageLayout&) const override {
    return static_cast<size_t>(positions) *
           (static_cast<size_t>(data_stride()) * sizeof(Code) + static_cast<size_t>(sums_stride()) * sizeof(int32_t));
  }

  size_t packed_bytes() const override {
    return gemm_.bytes() + (steps_.size() + starts_.size() + bias_.size()) * sizeof(int32_t) + zero_pixel_.size();
  }

  void run(const Conv2dArguments& arguments, Range items, std::byte* scratch) const override {
    const int64_t patches = patch_grid(arguments.output_layout).pixels();
    const int64_t tiles = ceil_divide(patches, Gemm::tile_rows);
    if (tiles >= panels_) {
      convolve(arguments, {items.begin * Gemm::tile_rows, std::min(items.end * Gemm::tile_rows, patches)}, {0, panels_},
               scratch);
    } else {
      convolve(arguments, {0, patches}, items, scratch);
    }
  }

 private:
  static constexpr int64_t max_chunk = 96;  // patches
  static constexpr int64_t chunk_bytes = 256 * 1024;
  static constexpr int group = 8;  // patches whose outputs go to the epilogue together
  static constexpr int64_t padding_bytes =
      memory_alignment;  // so that positions do not compete for the same cache sets

  WinogradConv2d(const Conv2dProblem& problem, const std::vector<int16_t>& weights)
      : window_(problem.window),
        in_channels_(problem.in_channels),
        out_channels_(problem.out_channels),
        panels_(ceil_divide(out_channels_, tile_columns)),
        data_offset_(Transform::data_offset(problem.quant_max)),
        gemm_(as_gemm(problem, weights, Transform::data_max(problem.quant_max)), 1),
        steps_(static_cast<size_t>(ceil_divide(in_channels_, Gemm::depth_step))),
        starts_(static_cast<size_t>(panels_ * positions * tile_columns)),
        bias_(static_cast<size_t>(panels_ * tile_columns), 0),
        zero_pixel_(static_cast<size_t>(in_channels_), static_cast<uint8_t>(problem.zero_code)),
        epilogue_(problem.requantization, out_channels_, accumulator_bound(kernels::as_gemm(problem))) {
    StagedRows<Gemm>::set_steps(in_channels_, steps_.data());
    for (size_t column = 0; column < starts_.size(); ++column) {
      const bool is_centre = column / tile_columns % positions == centre;
      const auto first = weights.begin() + static_cast<int64_t>(column) * in_channels_;
      starts_[column] = is_centre ? 0 : -data_offset_ * std::accumulate(first, first + in_channels_, 0);
    }
    for (int64_t o = 0; o < out_channels_; ++o) {
      bias_[static_cast<size_t>(o)] = 4 * folded_bias(kernels::as_gemm(problem), o);
    }
  }

  /// A pixel for each patch.
  static ImageLayout patch_grid(const ImageLayout& output) {
    return ImageLayout::dense(output.batch, ceil_divide(output.height, patch_outputs),
                              ceil_divide(output.width, patch_outputs), 1);
  }

  int64_t patch_stride() const { return ceil_divide(in_channels_, Gemm::depth_step) * Gemm::depth_step; }

  int64_t chunk() const {
    const int64_t tile_bytes = positions * patch_stride() * static_cast<int64_t>(sizeof(Code)) * Gemm::tile_rows;
    return std::clamp<int64_t>(chunk_bytes / tile_bytes, 1, max_chunk / Gemm::tile_rows) * Gemm::tile_rows;
  }

  // From one position to the next.
  int64_t data_stride() const { return padded<Code>(chunk() * patch_stride()); }
  int64_t sums_stride() const { return padded<int32_t>(chunk() * tile_columns); }

  template <class T>
  static int64_t padded(int64_t count) {
    const int64_t line = memory_alignment / sizeof(T);
    return ceil_divide(count, line) * line + padding_bytes / static_cast<int64_t>(sizeof(T));
  }

  void convolve(const Conv2dArguments& arguments, Range patches, Range panels, std::byte* scratch) const {
    const int64_t count = patches.end - patches.begin;
    if (count == 0) return;
    const int64_t chunks = ceil_divide(count, chunk());
    for (int64_t i = 0; i < chunks; ++i) {
      convolve_chunk(arguments, {patches.begin + count * i / chunks, patches.begin + count * (i + 1) / chunks}, panels,
                     scratch);
    }
  }

  void convolve_chunk(const Conv2dArguments& arguments, Range patches, Range panels, std::byte* scratch) const {
    auto* data = reinterpret_cast<Code*>(scratch);
    auto* sums = reinterpret_cast<int32_t*>(data + positions * data_stride());
    transform_input(arguments, patches, data);
    const Placement placement(arguments.output_layout, patches);
    const int count = static_cast<int>(patches.end - patches.begin);
    for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
      for (int p = 0; p < positions; ++p) {
        multiply(panel * positions + p, count, data + p * data_stride(), sums + p * sums_stride());
      }
      transform_output(panel, count, sums, placement, arguments.output);
    }
  }

  void transform_input(const Conv2dArguments& arguments, Range patches, Code* data) const {
    const ImageLayout grid = patch_grid(arguments.output_layout);
    while (patches.begin < patches.end) {
      const PixelCursor at(grid, patches.begin);
      const int count = static_cast<int>(std::min(patches.end - patches.begin, grid.width - at.column));
      Transform::transform_input(patch_row(arguments, at, count), in_channels_, data_offset_, data, patch_stride(),
                                 data_stride());
      data += count * patch_stride();
      patches.begin += count;
    }
  }

  PatchRow patch_row(const Conv2dArguments& arguments, const PixelCursor& at, int count) const {
    const ImageLayout& layout = arguments.input_layout;
    PatchRow row{.zero_pixel = zero_pixel_.data(),
                 .width = layout.width,
                 .column = patch_outputs * at.column - window_.padding[1],
                 .count = count};
    for (int i = 0; i < patch_size; ++i) {
      const int64_t y = patch_outputs * at.row - window_.padding[0] + i;
      const bool inside = 0 <= y && y < layout.height;
      row.rows[i] = inside ? arguments.input + layout.offset(at.image, y, 0) : zero_pixel_.data();
      row.pixel_strides[i] = inside ? layout.pixel_stride : 0;
    }
    return row;
  }

  /// sums[count][tile_columns] of one panel at one position, in tiles of about the same number of rows.
  void multiply(int64_t panel, int count, const Code* data, int32_t* sums) const {
    const int32_t* start = &starts_[static_cast<size_t>(panel * tile_columns)];
    const int64_t tiles = ceil_divide(count, Gemm::tile_rows);
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t row = count * t / tiles;
      const int rows = static_cast<int>(count * (t + 1) / tiles - row);
      const Code* patches[Gemm::tile_rows];
      for (int r = 0; r < rows; ++r) patches[r] = data + (row + r) * patch_stride();
      gemm_.multiply(panel, 1, {rows, patches, steps_.data()}, start, sums + row * tile_columns);
    }
  }

  /// Where the outputs of a chunk's patches go.
  struct Placement {
    PatchExtent extents[max_chunk];
    int64_t offsets[max_chunk * patch_outputs * patch_outputs];  // of kept outputs

    Placement(const ImageLayout& output, Range patches) {
      const ImageLayout grid = patch_grid(output);
      PixelCursor at(grid, patches.begin);
      PatchExtent* extent = extents;
      int64_t* offset = offsets;
      for (int64_t patch = patches.begin; patch < patches.end; ++patch, at.advance(grid)) {
        const int64_t row = patch_outputs * at.row;
        const int64_t column = patch_outputs * at.column;
        *extent++ = {column + 1 < output.width, row + 1 < output.height};
        for (int64_t y = row; y < std::min(row + patch_outputs, output.height); ++y) {
          for (int64_t x = column; x < std::min(column + patch_outputs, output.width); ++x) {
            *offset++ = output.offset(at.image, y, x);
          }
        }
      }
    }
  };

  void transform_output(int64_t panel, int count, const int32_t* sums, const Placement& placement,
                        const Output& output) const {
    alignas(memory_alignment) int32_t accumulators[group * patch_outputs * patch_outputs * tile_columns];
    const int64_t first_channel = panel * tile_columns;
    const int channels = static_cast<int>(std::min<int64_t>(tile_columns, out_channels_ - first_channel));
    const int64_t* offsets = placement.offsets;
    for (int patch = 0; patch < count; patch += group) {
      const int rows = Transform::transform_output(sums + patch * tile_columns, sums_stride(),
                                                   placement.extents + patch, std::min(group, count - patch),
                                                   &bias_[static_cast<size_t>(first_channel)], accumulators);
      Gemm::finish(epilogue_,
                   {.accumulators = accumulators,
                    .rows = rows,
                    .first_channel = first_channel,
                    .channels = channels,
                    .row_offsets = offsets},
                   output);
      offsets += rows;
    }
  }

  core::Window window_;
  int64_t in_channels_;
  int64_t out_channels_;
  int64_t panels_;
  int32_t data_offset_;
  Gemm gemm_;
  std::vector<int32_t> steps_;
  AlignedVector<int32_t> starts_;  // what removes data_offset from the sums; [panels][positions][tile_columns]
  AlignedVector<int32_t> bias_;    // folded, times 4; [panels][tile_columns]
  AlignedVector<uint8_t> zero_pixel_;
  Epilogue epilogue_;
};

template <class Transform>
bool supports_winograd_conv2d(const Conv2dProblem& problem) {
  const int32_t data_max = Transform::data_max(problem.quant_max);
  if (data_max > 255 || problem.in_channels < Transform::min_in_channels || !is_suitable(problem)) return false;
  const auto weights = transform_weights(problem);
  return weights && Transform::Gemm::supports(as_gemm(problem, *weights, data_max));
}

template <class Transform>
std::unique_ptr<PackedConv2d> pack_winograd_conv2d(const Conv2dProblem& problem) {
  validate(problem);
  require(supports_winograd_conv2d<Transform>(problem), "winograd: this problem does not fit the kernel's integers");
  return std::make_unique<WinogradConv2d<Transform>>(problem);
}

}  // namespace qstep::kernels::winograd
