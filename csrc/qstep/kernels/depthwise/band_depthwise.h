#pragma once
// Depthwise convolution, whatever its instruction set: a band of output rows at a time.
//
// The input rows that a band sees are staged: copied into scratch, column after column, with the codes of `group_rows`
// rows next to each other for each channel, as the instructions want to add them. Padding is staged like any other
// code, so the sums know of no border, and a staged column serves every tap and every row of the band. Where the
// window leaves rows of its last group unused, the band has more than one output row: a 3x3 window in groups of four
// rows gives two. The weights of rows outside an output row's window are zero.
//
// Channels are staged in blocks and summed in tiles of tile_columns. The last block ends where the channels end and
// overlaps the one before it, so nothing is read or written beyond them.
//
// An Arithmetic holds packed weights and sums taps:
//   using Code                     the type that input codes are staged as
//   group_rows                     input rows that lie next to each other
//   widths                         of blocks in channels, descending; multiples of tile_columns
//   supports(problem)
//   Arithmetic(problem, geometry, first_channels), bytes(); of several sums per output, one for each
//   stage(rows, strides, columns, width, output, output_stride)
//       output[x * output_stride + c * group_rows + r] = rows[r][x * strides[r] + c], c < width
//   multiply(tile, band, bias, sums)
//       sums[(b * band.columns + x) * tile_columns + c] for all rows b and columns x, and maybe what comes after them, up
//       to column_step - 1 more columns
//   finish(epilogue, tile, output)
// and may do the last two in registers:
//   makes_codes(epilogue)               true where it can
//   multiply_to_codes(tile, band, bias, epilogue, where, output)   where: channels and row offsets, no accumulators
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "qstep/core/error.h"
#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/conv2d/conv2d.h"

namespace qstep::kernels {

inline bool is_depthwise(const Conv2dProblem& problem) {
  return problem.groups == problem.in_channels && problem.out_channels == problem.in_channels;
}

/// How a window is cut into groups of input rows, and how many output rows they serve.
struct BandGeometry {
  core::Window window;
  int group_rows;
  int groups;
  int rows;  ///< of the output

  BandGeometry(const core::Window& window, int group_rows)
      : window(window),
        group_rows(group_rows),
        groups(static_cast<int>(ceil_divide(window.kernel[0], group_rows))),
        rows(window.dilation[0] == 1 ? (groups * group_rows - window.kernel[0]) / window.stride[0] + 1 : 1) {}

  /// The window's row that input row `input` of the band is to output row `output`; none where outside the kernel.
  int tap_row(int input, int output) const { return input - output * window.stride[0]; }
  int taps() const { return groups * window.kernel[1]; }
};

/// Weights in the order of multiply: [tiles][kernel_w][groups][rows][tile_columns][group_rows].
template <class T>
void pack_band_weights(const Conv2dProblem& problem, const BandGeometry& geometry,
                       const std::vector<int64_t>& first_channels, AlignedVector<T>& packed) {
  const core::Window& window = geometry.window;
  const int64_t taps = int64_t{window.kernel[0]} * window.kernel[1];
  const auto weight = [&](int64_t channel, int row, int column) {
    if (channel >= problem.in_channels || row < 0 || row >= window.kernel[0]) return T{0};
    return static_cast<T>(problem.weights[static_cast<size_t>(channel * taps + row * window.kernel[1] + column)]);
  };
  for (const int64_t first : first_channels) {
    for (int column = 0; column < window.kernel[1]; ++column) {
      for (int group = 0; group < geometry.groups; ++group) {
        for (int row = 0; row < geometry.rows; ++row) {
          for (int64_t c = first; c < first + tile_columns; ++c) {
            for (int r = 0; r < geometry.group_rows; ++r) {
              packed.push_back(weight(c, geometry.tap_row(group * geometry.group_rows + r, row), column));
            }
          }
        }
      }
    }
  }
}

/// What multiply reads for one tile of channels, and how its sums lie.
template <class Code>
struct StagedBand {
  const Code* codes;
  std::span<const int32_t>
      tap_offsets;        ///< [kernel_w][groups]: from an output column's first code to those of its taps
  int64_t output_stride;  ///< in codes, from one output column to the next
  int rows;               ///< of the output, at most those of the geometry
  int64_t columns;        ///< of the output

  /// Sums go in tiles of `width` columns from this one on, to the first: the last tile may reach beyond the columns, and
  /// what it writes there is overwritten by the sums of the next row.
  int64_t last_tile(int64_t width) const { return (columns - 1) / width * width; }
};

/// Channels that are staged together.
struct ChannelBlock {
  int64_t first_channel;
  int width;
  int first_tile;                    ///< tiles before it belong to the block before
  int tiles;                         ///< where those of the block end
  std::vector<int32_t> tap_offsets;  ///< as in StagedBand
};

/// Blocks of the widest width that the channels have room for, and a last one that overlaps them. Only channels fewer
/// than the narrowest width make a block that ends beyond them.
inline std::vector<ChannelBlock> channel_blocks(int64_t channels, std::span<const int> widths) {
  std::vector<ChannelBlock> blocks;
  const auto fitting = std::ranges::find_if(widths, [&](int w) { return w <= channels; });
  if (fitting == widths.end()) {
    blocks.push_back({0, widths.back(), 0, static_cast<int>(ceil_divide(channels, tile_columns)), {}});
    return blocks;
  }
  const int widest = *fitting;
  int64_t first = 0;
  for (; first + widest <= channels; first += widest) blocks.push_back({first, widest, 0, widest / tile_columns, {}});
  const int64_t rest = channels - first;
  if (rest == 0) return blocks;
  const int width = *std::find_if(widths.rbegin(), widths.rend(), [&](int w) { return w >= rest; });
  blocks.push_back(
      {channels - width, width, static_cast<int>((width - rest) / tile_columns), width / tile_columns, {}});
  return blocks;
}

template <class Arithmetic>
class BandDepthwise final : public PackedConv2d {
 public:
  explicit BandDepthwise(const Conv2dProblem& problem)
      : channels_(problem.in_channels),
        geometry_(problem.window, Arithmetic::group_rows),
        blocks_(channel_blocks(channels_, Arithmetic::widths)),
        chunk_columns_(fitting_columns()),
        zero_pixel_(static_cast<size_t>(std::max<int64_t>(channels_, Arithmetic::widths.front())),
                    static_cast<uint8_t>(problem.zero_code)),
        epilogue_(problem.requantization, channels_, accumulator_bound(as_gemm(problem))) {
    std::vector<int64_t> first_channels;
    for (ChannelBlock& block : blocks_) {
      for (int t = block.first_tile; t < block.tiles; ++t) {
        first_channels.push_back(block.first_channel + t * tile_columns);
      }
      for (int j = 0; j < geometry_.window.kernel[1]; ++j) {
        for (int g = 0; g < geometry_.groups; ++g) {
          const int64_t column = int64_t{j} * geometry_.window.dilation[1];
          block.tap_offsets.push_back(static_cast<int32_t>((column * geometry_.groups + g) * group_rows * block.width));
        }
      }
    }
    tiles_ = static_cast<int64_t>(first_channels.size());
    const GemmProblem gemm = as_gemm(problem);
    const auto weights_of_sum = static_cast<size_t>(gemm.columns * gemm.depth);
    for (int k = 0; k < gemm.sums(); ++k) {
      Conv2dProblem part = problem;
      part.weights = problem.weights.subspan(static_cast<size_t>(k) * weights_of_sum, weights_of_sum);
      arithmetics_.emplace_back(part, geometry_, first_channels);
      for (const int64_t first : first_channels) {
        for (int64_t c = first; c < first + tile_columns; ++c) {
          bias_.push_back(c < channels_ ? folded_bias(gemm, c, k) : 0);
        }
      }
    }
  }

  /// An item is a band of the output.
  int64_t work_items(const ImageLayout& output) const override { return output.batch * bands(output); }

  size_t scratch_bytes(const ImageLayout&) const override {
    return staged_bytes() + sum_bytes() + (copies_pixels() ? copied_bytes() : 0);
  }

  size_t packed_bytes() const override {
    return arithmetics_.size() * arithmetics_[0].bytes() + bias_.size() * sizeof(int32_t) + zero_pixel_.size();
  }

  void run(const Conv2dArguments& arguments, Range items, std::byte* scratch) const override {
    const ImageLayout& output = arguments.output_layout;
    for (int64_t item = items.begin; item < items.end; ++item) {
      const int64_t image = item / bands(output);
      const int64_t row = item % bands(output) * geometry_.rows;
      for (int64_t column = 0; column < output.width; column += chunk_columns_) {
        run_chunk(arguments, image, row, column, scratch);
      }
    }
  }

 private:
  using Code = typename Arithmetic::Code;
  static constexpr int group_rows = Arithmetic::group_rows;
  static constexpr int widest = Arithmetic::widths.front();
  static constexpr int narrowest = Arithmetic::widths.back();
  static constexpr int64_t column_step = 8;
  static constexpr int64_t max_chunk_columns = 8 * column_step;
  static constexpr int64_t staged_limit = 16 * 1024;  // bytes, of a first-level cache of 32 KiB

  int64_t bands(const ImageLayout& output) const { return ceil_divide(output.height, geometry_.rows); }
  bool copies_pixels() const { return channels_ < narrowest; }

  int64_t column_codes(int width) const { return int64_t{geometry_.groups} * group_rows * width; }

  /// Input columns that `columns` neighbouring windows see.
  int64_t input_columns(int64_t columns) const {
    return (columns - 1) * geometry_.window.stride[1] + core::window_extent(geometry_.window, 1);
  }

  int64_t fitting_columns() const {
    const int64_t fitting = staged_limit / (column_codes(widest) * static_cast<int64_t>(sizeof(Code)));
    const int64_t columns = (fitting - core::window_extent(geometry_.window, 1)) / geometry_.window.stride[1] + 1;
    return std::clamp(columns / column_step * column_step, column_step, max_chunk_columns);
  }

  size_t staged_bytes() const {
    return static_cast<size_t>(input_columns(chunk_columns_) * column_codes(widest)) * sizeof(Code);
  }
  size_t sum_bytes() const { return arithmetics_.size() * static_cast<size_t>(sums_of_tile()) * sizeof(int32_t); }
  size_t copied_bytes() const { return static_cast<size_t>(input_columns(chunk_columns_) * column_codes(narrowest)); }
  int64_t sums_of_tile() const { return (geometry_.rows * chunk_columns_ + column_step) * tile_columns; }

  void run_chunk(const Conv2dArguments& arguments, int64_t image, int64_t row, int64_t column,
                 std::byte* scratch) const {
    const ImageLayout& output = arguments.output_layout;
    const int64_t columns = std::min(chunk_columns_, output.width - column);
    const int rows = static_cast<int>(std::min<int64_t>(geometry_.rows, output.height - row));
    int64_t output_offsets[group_rows * max_chunk_columns];
    for (int64_t b = 0; b < rows; ++b) {
      for (int64_t x = 0; x < columns; ++x) output_offsets[b * columns + x] = output.offset(image, row + b, column + x);
    }
    auto* staged = reinterpret_cast<Code*>(scratch);
    auto* sums = reinterpret_cast<int32_t*>(scratch + staged_bytes());
    int64_t tile = 0;
    for (const ChannelBlock& block : blocks_) {
      stage_block(arguments, block, image, row, column, input_columns(columns), scratch);
      const int64_t output_stride = column_codes(block.width) * geometry_.window.stride[1];
      for (int t = block.first_tile; t < block.tiles; ++t, ++tile) {
        const StagedBand<Code> band{.codes = staged + t * tile_columns * group_rows,
                                    .tap_offsets = block.tap_offsets,
                                    .output_stride = output_stride,
                                    .rows = rows,
                                    .columns = columns};
        const int64_t first_channel = block.first_channel + t * tile_columns;
        const AccumulatorTile where{
            .accumulators = sums,
            .sum_stride = sums_of_tile(),
            .rows = static_cast<int>(rows * columns),
            .first_channel = first_channel,
            .channels = static_cast<int>(std::min<int64_t>(tile_columns, channels_ - first_channel)),
            .row_offsets = output_offsets};
        if constexpr (requires { Arithmetic::makes_codes(epilogue_); }) {
          if (Arithmetic::makes_codes(epilogue_)) {
            arithmetics_[0].multiply_to_codes(tile, band, bias_.data() + tile * tile_columns, epilogue_, where,
                                              arguments.output.codes);
            continue;
          }
        }
        for (size_t k = 0; k < arithmetics_.size(); ++k) {
          const int64_t bias = (static_cast<int64_t>(k) * tiles_ + tile) * tile_columns;
          arithmetics_[k].multiply(tile, band, bias_.data() + bias, sums + static_cast<int64_t>(k) * sums_of_tile());
        }
        Arithmetic::finish(epilogue_, where, arguments.output);
      }
    }
  }

  /// Stages all groups of rows of one block, `count` input columns from the window of output column `column` on.
  void stage_block(const Conv2dArguments& arguments, const ChannelBlock& block, int64_t image, int64_t row,
                   int64_t column, int64_t count, std::byte* scratch) const {
    const core::Window& window = geometry_.window;
    const ImageLayout& layout = arguments.input_layout;
    auto* staged = reinterpret_cast<Code*>(scratch);
    const int64_t codes = column_codes(block.width);
    const int64_t x = column * window.stride[1] - window.padding[1];
    const int64_t begin = std::clamp<int64_t>(-x, 0, count);
    const int64_t end = std::clamp<int64_t>(layout.width - x, begin, count);
    std::fill_n(staged, begin * codes, Code{zero_pixel_[0]});
    std::fill_n(staged + end * codes, (count - end) * codes, Code{zero_pixel_[0]});
    if (begin == end) return;
    const int64_t first_row = row * window.stride[0] - window.padding[0];
    auto* copies = reinterpret_cast<uint8_t*>(scratch + staged_bytes() + sum_bytes());
    for (int g = 0; g < geometry_.groups; ++g) {
      std::array<const uint8_t*, group_rows> rows;
      std::array<int64_t, group_rows> strides;
      for (int r = 0; r < group_rows; ++r) {
        const int64_t y = first_row + int64_t{g * group_rows + r} * window.dilation[0];
        const bool inside = 0 <= y && y < layout.height;
        rows[r] =
            inside ? arguments.input + layout.offset(image, y, x + begin) + block.first_channel : zero_pixel_.data();
        strides[r] = inside ? layout.pixel_stride : 0;
        if (inside && copies_pixels()) copy_pixels(rows[r], strides[r], end - begin, copies);
        copies += copies_pixels() ? input_columns(chunk_columns_) * narrowest : 0;
      }
      Arithmetic::stage(rows, strides, end - begin, block.width, staged + begin * codes + g * group_rows * block.width,
                        codes);
    }
  }

  /// Points `row` at copies of its pixels with room for a block. Bytes beyond the channels stay as they are: their sums
  /// are not stored.
  void copy_pixels(const uint8_t*& row, int64_t& stride, int64_t count, uint8_t* copies) const {
    for (int64_t x = 0; x < count; ++x) {
      std::memcpy(copies + x * narrowest, row + x * stride, static_cast<size_t>(channels_));
    }
    row = copies;
    stride = narrowest;
  }

  int64_t channels_;
  BandGeometry geometry_;
  std::vector<ChannelBlock> blocks_;
  int64_t tiles_ = 0;
  int64_t chunk_columns_;                // of the output, staged and summed at a time
  std::vector<Arithmetic> arithmetics_;  // one for each sum
  AlignedVector<int32_t> bias_;          // folded; [sums][tiles_][tile_columns]
  AlignedVector<uint8_t> zero_pixel_;    // padded to a block
  Epilogue epilogue_;
};

template <class Arithmetic>
std::unique_ptr<PackedConv2d> pack_band_depthwise(const Conv2dProblem& problem) {
  validate(problem);
  require(is_depthwise(problem), "depthwise: groups must equal {} input and {} output channels, got {}",
          problem.in_channels, problem.out_channels, problem.groups);
  return std::make_unique<BandDepthwise<Arithmetic>>(problem);
}

template <class Arithmetic>
bool supports_band_depthwise(const Conv2dProblem& problem) {
  return is_depthwise(problem) && Arithmetic::supports(problem);
}

}  // namespace qstep::kernels
