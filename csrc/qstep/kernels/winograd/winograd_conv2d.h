#pragma once
// The driver of the Winograd kernels (transform.h), whatever their instruction set.
//
// Patches are taken in chunks whose transformed data stays in the second-level cache. Panel by panel, weights are
// transformed and multiplied at all positions, and the sums are transformed and given to the epilogue while they are in
// cache. The kernels of the next panel are fetched meanwhile.
//
// An Arithmetic does the work on data and weights that are transformed:
//   using Scheme, Data, Weight
//   columns, depth_step, lanes                see WeightLayout; columns are whole tiles
//   tile_rows                                 patches multiplied at a time
//   data_offset(quant_max)                    added to data but for that of the centre, so that Data holds it; 0 with Stride2
//   supports(problem), of one for which fits_scheme() is true; Arithmetic(problem), bytes()
//   suits(problem), if it is right for more than it is fast for
//   transform_kernels(kernels, size, weights, plane_stride)          `size` weights of each plane
//   transform_input(row, channels, data_offset, data, patch_stride, plane_stride)
//   multiply(panel * positions + position, product)
//   transform_output(patches, accumulators)
//       accumulators[kept outputs][tile_columns] = (A^T sums A + bias) / unit patch by patch, row-major; returns their number
//   finish(epilogue, tile, output)
// and, if it has them, instead of these two where the epilogue allows:
//   makes_codes(epilogue)
//   transform_to_codes(patches, epilogue, where, codes)    where: channels and row offsets, no accumulators
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "qstep/core/error.h"
#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/conv2d/conv2d.h"
#include "qstep/kernels/gemm/panel_gemm.h"
#include "qstep/kernels/winograd/patch_places.h"
#include "qstep/kernels/winograd/transform.h"

namespace qstep::kernels::winograd {

template <class Arithmetic>
WeightLayout weight_layout(const Conv2dProblem& problem) {
  return {problem.in_channels, problem.out_channels, Arithmetic::columns, Arithmetic::depth_step, Arithmetic::lanes};
}

template <class Arithmetic>
class WinogradConv2d final : public PackedConv2d {
 public:
  explicit WinogradConv2d(const Conv2dProblem& problem)
      : window_(problem.window),
        layout_(weight_layout<Arithmetic>(problem)),
        data_offset_(Arithmetic::data_offset(problem.quant_max)),
        kernels_(pack_kernels(problem, layout_)),
        arithmetic_(problem),
        starts_(static_cast<size_t>(layout_.panels() * positions * Arithmetic::columns), 0),
        bias_(static_cast<size_t>(layout_.panels() * Arithmetic::columns), 0),
        zero_pixel_(static_cast<size_t>(problem.in_channels), static_cast<uint8_t>(problem.zero_code)),
        epilogue_(problem.requantization, problem.out_channels, accumulator_bound(as_gemm(problem))) {
    for (int64_t o = 0; o < problem.out_channels; ++o) {
      bias_[static_cast<size_t>(o)] = Scheme::unit * folded_bias(as_gemm(problem), o);
    }
    if constexpr (std::is_same_v<Scheme, Stride1>) {
      if (data_offset_ != 0) make_starts(problem);
    }
  }

  /// An item is a few patches times all panels, or all patches times one panel where that makes more items.
  int64_t work_items(const ImageLayout& output) const override {
    const int64_t tiles = ceil_divide(patch_grid(output).pixels(), tile_rows);
    return tiles == 0 ? 0 : std::max(tiles, layout_.panels());
  }

  size_t scratch_bytes(const ImageLayout&) const override {
    return static_cast<size_t>(data_size()) * sizeof(Data) + static_cast<size_t>(weight_size()) * sizeof(Weight) +
           static_cast<size_t>(positions * sum_stride()) * sizeof(int32_t);
  }

  size_t packed_bytes() const override {
    return kernels_.size() + arithmetic_.bytes() + (starts_.size() + bias_.size()) * sizeof(int32_t) +
           zero_pixel_.size();
  }

  void run(const Conv2dArguments& arguments, Range items, std::byte* scratch) const override {
    const int64_t patches = patch_grid(arguments.output_layout).pixels();
    if (ceil_divide(patches, tile_rows) >= layout_.panels()) {
      const Range part{items.begin * tile_rows, std::min(items.end * tile_rows, patches)};
      convolve(arguments, part, {0, layout_.panels()}, scratch);
    } else {
      convolve(arguments, {0, patches}, items, scratch);
    }
  }

 private:
  using Scheme = typename Arithmetic::Scheme;
  using Data = typename Arithmetic::Data;
  using Weight = typename Arithmetic::Weight;

  static constexpr int positions = positions_of<Scheme>;
  static constexpr int64_t planes = planes_before<Scheme>[positions];
  static constexpr int64_t tile_rows = Arithmetic::tile_rows;
  static constexpr int64_t chunk_bytes = 384 * 1024;
  static constexpr int group = 8;  // patches whose outputs go to the epilogue together

  void make_starts(const Conv2dProblem& problem) {
    for (int64_t panel = 0; panel < layout_.panels(); ++panel) {
      const std::vector<int16_t> weights = transform_panel(problem, layout_, panel);
      for (int64_t i = 0; i < static_cast<int64_t>(weights.size()); ++i) {
        const int64_t position = i / layout_.position_size();
        const int64_t column = i / Arithmetic::depth_step % Arithmetic::columns;
        const int64_t start = (panel * positions + position) * Arithmetic::columns + column;
        if (position != centre) starts_[static_cast<size_t>(start)] -= data_offset_ * weights[static_cast<size_t>(i)];
      }
    }
  }

  /// Of one plane.
  int64_t patch_stride() const { return layout_.steps() * Arithmetic::depth_step; }

  int64_t chunk() const {
    const int64_t patch_bytes = planes * patch_stride() * static_cast<int64_t>(sizeof(Data));
    return std::clamp(chunk_bytes / patch_bytes, tile_rows, PatchPlaces::most);
  }

  // In scratch, elements from one plane, or position of sums, to the next.
  int64_t data_stride() const { return whole_lines<Data>(chunk() * patch_stride()); }
  int64_t weight_stride() const { return whole_lines<Weight>(layout_.position_size()); }
  int64_t sum_stride() const { return whole_lines<int32_t>(chunk() * Arithmetic::columns) + line<int32_t>; }

  int64_t data_size() const { return place_of<Scheme, Data>(positions, data_stride()); }
  int64_t weight_size() const { return place_of<Scheme, Weight>(positions, weight_stride()); }

  template <class T>
  static constexpr int64_t line = memory_alignment / sizeof(T);

  template <class T>
  static int64_t whole_lines(int64_t count) {
    return ceil_divide(count, line<T>) * line<T>;
  }

  void convolve(const Conv2dArguments& arguments, Range patches, Range panels, std::byte* scratch) const {
    const int64_t count = patches.end - patches.begin;
    const int64_t chunks = ceil_divide(count, chunk());
    for (int64_t i = 0; i < chunks; ++i) {
      const Range part{patches.begin + count * i / chunks, patches.begin + count * (i + 1) / chunks};
      convolve_chunk(arguments, part, panels, scratch);
    }
  }

  void convolve_chunk(const Conv2dArguments& arguments, Range patches, Range panels, std::byte* scratch) const {
    auto* data = reinterpret_cast<Data*>(scratch);
    auto* weights = reinterpret_cast<Weight*>(data + data_size());
    auto* sums = reinterpret_cast<int32_t*>(weights + weight_size());
    const PatchPlaces places(arguments.output_layout, patches);
    transform_input(arguments, patches, places, data);
    const int count = static_cast<int>(patches.end - patches.begin);
    for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
      const int8_t* kernels = kernels_.data() + panel * layout_.kernels_size();
      Arithmetic::transform_kernels(kernels, layout_.position_size(), weights, weight_stride());
      for (int p = 0; p < positions; ++p) {
        const int64_t planes_here = planes_at<Scheme>(p);
        const int64_t stride = planes_here * patch_stride();
        if (panel + 1 < panels.end) fetch(kernels + layout_.kernels_size(), p);
        const Range wanted = places.wanted_at(p, Scheme::sides);
        if (wanted.begin == wanted.end) continue;
        const int64_t matrix = panel * positions + p;
        arithmetic_.multiply(matrix, {.data = data + place_of<Scheme, Data>(p, data_stride()) + wanted.begin * stride,
                                      .patch_stride = stride,
                                      .count = static_cast<int>(wanted.end - wanted.begin),
                                      .weights = weights + place_of<Scheme, Weight>(p, weight_stride()),
                                      .steps = planes_here * layout_.steps(),
                                      .start = &starts_[static_cast<size_t>(matrix * Arithmetic::columns)],
                                      .sums = sums + p * sum_stride() + wanted.begin * Arithmetic::columns});
      }
      for (int64_t column = 0; column < Arithmetic::columns; column += tile_columns) {
        transform_output(panel * Arithmetic::columns + column, count, sums + column, places, arguments.output);
      }
    }
  }

  /// Part p of a panel's kernels, towards the second-level cache.
  void fetch(const int8_t* kernels, int64_t p) const {
    const int64_t size = layout_.kernels_size();
    for (int64_t i = size * p / positions; i < size * (p + 1) / positions; i += memory_alignment) {
      __builtin_prefetch(kernels + i, 0, 2);
    }
  }

  void transform_input(const Conv2dArguments& arguments, Range patches, const PatchPlaces& places, Data* data) const {
    const ImageLayout grid = patch_grid(arguments.output_layout);
    const int32_t* place = places.places();
    while (patches.begin < patches.end) {
      const PixelCursor at(grid, patches.begin);
      const int64_t in_row = std::min(patches.end - patches.begin, grid.width - at.column);
      int count = 1;
      while (count < in_row && place[count] == place[0] + count) ++count;
      Arithmetic::transform_input(patch_row(arguments, at, count, place[0]), layout_.in_channels, data_offset_, data,
                                  patch_stride(), data_stride());
      place += count;
      patches.begin += count;
    }
  }

  PatchRow patch_row(const Conv2dArguments& arguments, const PixelCursor& at, int count, int64_t place) const {
    const ImageLayout& layout = arguments.input_layout;
    PatchRow row{.zero_pixel = zero_pixel_.data(),
                 .width = layout.width,
                 .column = patch_outputs * Scheme::stride * at.column - window_.padding[1],
                 .count = count,
                 .place = place};
    for (int i = 0; i < Scheme::patch_size; ++i) {
      const int64_t y = patch_outputs * Scheme::stride * at.row - window_.padding[0] + i;
      const bool inside = 0 <= y && y < layout.height;
      row.rows[i] = inside ? arguments.input + layout.offset(at.image, y, 0) : zero_pixel_.data();
      row.pixel_strides[i] = inside ? layout.pixel_stride : 0;
    }
    return row;
  }

  void transform_output(int64_t first_channel, int count, const int32_t* sums, const PatchPlaces& places,
                        const Output& output) const {
    AccumulatorTile tile{
        .first_channel = first_channel,
        .channels = static_cast<int>(std::min<int64_t>(tile_columns, layout_.out_channels - first_channel)),
        .row_offsets = places.offsets()};
    if (tile.channels <= 0) return;
    PatchSums patches{.sums = sums,
                      .patch_stride = Arithmetic::columns,
                      .position_stride = sum_stride(),
                      .extents = places.extents(),
                      .count = count,
                      .bias = &bias_[static_cast<size_t>(first_channel)]};
    if constexpr (requires { Arithmetic::makes_codes(epilogue_); }) {
      if (Arithmetic::makes_codes(epilogue_)) {
        return Arithmetic::transform_to_codes(patches, epilogue_, tile, output.codes);
      }
    }
    alignas(memory_alignment) int32_t accumulators[group * patch_outputs * patch_outputs * tile_columns];
    tile.accumulators = accumulators;
    for (int left = count; left > 0; left -= patches.count) {
      patches.count = std::min(group, left);
      tile.rows = Arithmetic::transform_output(patches, accumulators);
      Arithmetic::finish(epilogue_, tile, output);
      patches.sums += patches.count * patches.patch_stride;
      patches.extents += patches.count;
      tile.row_offsets += tile.rows;
    }
  }

  core::Window window_;
  WeightLayout layout_;
  int32_t data_offset_;
  AlignedVector<int8_t> kernels_;
  Arithmetic arithmetic_;
  AlignedVector<int32_t> starts_;  // what removes data_offset_ from the sums; [panels][positions][columns]
  AlignedVector<int32_t> bias_;    // folded, times unit; [panels][columns]
  AlignedVector<uint8_t> zero_pixel_;
  Epilogue epilogue_;
};

template <class Arithmetic>
bool supports_winograd_conv2d(const Conv2dProblem& problem) {
  return fits_scheme<typename Arithmetic::Scheme>(problem) && Arithmetic::supports(problem);
}

template <class Arithmetic>
bool suits_winograd_conv2d(const Conv2dProblem& problem) {
  if constexpr (requires { Arithmetic::suits(problem); }) return Arithmetic::suits(problem);
  return true;
}

template <class Arithmetic>
bool takes_winograd_conv2d(const Conv2dProblem& problem) {
  return supports_winograd_conv2d<Arithmetic>(problem) && suits_winograd_conv2d<Arithmetic>(problem);
}

template <class Arithmetic>
std::unique_ptr<PackedConv2d> pack_winograd_conv2d(const Conv2dProblem& problem) {
  validate(problem);
  require(supports_winograd_conv2d<Arithmetic>(problem), "winograd: the kernel does not take this problem");
  return std::make_unique<WinogradConv2d<Arithmetic>>(problem);
}

}  // namespace qstep::kernels::winograd
