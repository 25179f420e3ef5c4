#pragma once
// Depthwise convolution, whatever its instruction set: blocks of neighbouring channels, one pixel's taps summed at a
// time.
//
// Taps are reached through a table of pointers, one per tap of each pixel of a small tile; those outside the image
// point to a pixel of zero codes. The last block of channels ends where the channels end and overlaps the one before
// it, so nothing is read or written beyond them. Where the channels do not fill one block, taps are copied to blocks
// in scratch.
//
// An Arithmetic holds packed weights and sums one pixel's block:
//   block_channels, a multiple of tile_columns
//   supports(problem), Arithmetic(problem), bytes(); of a layer with several sums per output, one for each of them
//   taps()                                  of the table, at least the window's: more of them have weight zero
//   accumulate(block, taps, first_channel, bias, sums, stride)
//       sums[h * stride + c] = bias[16 h + c] + sum over taps of tap[first_channel + 16 h + c] * weight
//   finish(epilogue, tile, output)
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "qstep/core/error.h"
#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/conv2d/conv2d.h"

namespace qstep::kernels {

inline bool is_depthwise(const Conv2dProblem& problem) {
  return problem.groups == problem.in_channels && problem.out_channels == problem.in_channels;
}

/// Where block `block` of a depthwise kernel begins.
inline int64_t block_start(int64_t block, int64_t block_channels, int64_t channels) {
  return std::max<int64_t>(0, std::min(block * block_channels, channels - block_channels));
}

template <class Arithmetic>
class BlockedDepthwise final : public PackedConv2d {
 public:
  explicit BlockedDepthwise(const Conv2dProblem& problem)
      : channels_(problem.in_channels),
        window_(problem.window),
        padded_channels_(std::max<int64_t>(channels_, block_channels)),
        zero_pixel_(static_cast<size_t>(padded_channels_), static_cast<uint8_t>(problem.zero_code)),
        epilogue_(problem.requantization, channels_, accumulator_bound(as_gemm(problem))) {
    const GemmProblem gemm = as_gemm(problem);
    const auto weights_of_sum = static_cast<size_t>(gemm.columns * gemm.depth);
    bias_.resize(static_cast<size_t>(gemm.sums() * padded_channels_), 0);
    for (int k = 0; k < gemm.sums(); ++k) {
      Conv2dProblem part = problem;
      part.weights = problem.weights.subspan(static_cast<size_t>(k) * weights_of_sum, weights_of_sum);
      arithmetics_.emplace_back(part);
      for (int64_t c = 0; c < channels_; ++c) {
        bias_[static_cast<size_t>(k * padded_channels_ + c)] = folded_bias(gemm, c, k);
      }
    }
  }

  /// An item is a row of the output.
  int64_t work_items(const ImageLayout& output) const override { return output.batch * output.height; }

  size_t scratch_bytes(const ImageLayout&) const override {
    const size_t taps = static_cast<size_t>(tile_pixels * taps_of_pixel());
    return taps * (sizeof(const uint8_t*) + (copies_taps() ? block_channels : 0));
  }

  size_t packed_bytes() const override {
    return arithmetics_.size() * arithmetics_[0].bytes() + bias_.size() * sizeof(int32_t) + zero_pixel_.size();
  }

  void run(const Conv2dArguments& arguments, Range items, std::byte* scratch) const override {
    for (int64_t item = items.begin; item < items.end; ++item) {
      const int64_t image = item / arguments.output_layout.height;
      const int64_t row = item % arguments.output_layout.height;
      for (int64_t column = 0; column < arguments.output_layout.width; column += tile_pixels) {
        run_tile(arguments, image, row, column, scratch);
      }
    }
  }

 private:
  static constexpr int block_channels = Arithmetic::block_channels;
  static constexpr int tile_pixels = 8;

  int64_t taps_of_pixel() const { return arithmetics_[0].taps(); }
  bool copies_taps() const { return channels_ < block_channels; }

  void run_tile(const Conv2dArguments& arguments, int64_t image, int64_t row, int64_t column,
                std::byte* scratch) const {
    const ImageLayout& layout = arguments.output_layout;
    const int pixels = static_cast<int>(std::min<int64_t>(tile_pixels, layout.width - column));
    auto* taps = reinterpret_cast<const uint8_t**>(scratch);
    int64_t output_offsets[tile_pixels];
    for (int p = 0; p < pixels; ++p) {
      point_at_taps(arguments, image, row, column + p, taps + p * taps_of_pixel());
      output_offsets[p] = layout.offset(image, row, column + p);
    }
    if (copies_taps()) copy_taps(taps, pixels * taps_of_pixel(), scratch);

    constexpr int halves = block_channels / tile_columns;
    constexpr int64_t tile_size = tile_pixels * tile_columns;
    alignas(memory_alignment) int32_t sums[max_sums][halves][tile_pixels][tile_columns];
    const int64_t blocks = (channels_ + block_channels - 1) / block_channels;
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t first = block_start(block, block_channels, channels_);
      for (size_t k = 0; k < arithmetics_.size(); ++k) {
        const int32_t* bias = bias_.data() + static_cast<int64_t>(k) * padded_channels_ + first;
        for (int p = 0; p < pixels; ++p) {
          arithmetics_[k].accumulate(block, taps + p * taps_of_pixel(), first, bias, sums[k][0][p], tile_size);
        }
      }
      for (int h = 0; h < halves && first + h * tile_columns < channels_; ++h) {
        const int64_t first_channel = first + h * tile_columns;
        const int channels = static_cast<int>(std::min<int64_t>(tile_columns, channels_ - first_channel));
        Arithmetic::finish(epilogue_,
                           {.accumulators = sums[0][h][0],
                            .sum_stride = halves * tile_size,
                            .rows = pixels,
                            .first_channel = first_channel,
                            .channels = channels,
                            .row_offsets = output_offsets},
                           arguments.output);
      }
    }
  }

  void point_at_taps(const Conv2dArguments& arguments, int64_t image, int64_t row, int64_t column,
                     const uint8_t** taps) const {
    const ImageLayout& layout = arguments.input_layout;
    const uint8_t** const end = taps + taps_of_pixel();
    for (int32_t i = 0; i < window_.kernel[0]; ++i) {
      const int64_t y = row * window_.stride[0] - window_.padding[0] + int64_t{i} * window_.dilation[0];
      for (int32_t j = 0; j < window_.kernel[1]; ++j) {
        const int64_t x = column * window_.stride[1] - window_.padding[1] + int64_t{j} * window_.dilation[1];
        const bool inside = 0 <= y && y < layout.height && 0 <= x && x < layout.width;
        *taps++ = inside ? arguments.input + layout.offset(image, y, x) : zero_pixel_.data();
      }
    }
    std::fill(taps, end, zero_pixel_.data());
  }

  /// Points `taps` at copies with block_channels readable bytes. Bytes beyond the channels stay as they are: their
  /// sums are not stored.
  void copy_taps(const uint8_t** taps, int64_t count, std::byte* scratch) const {
    auto* copies = reinterpret_cast<uint8_t*>(scratch + static_cast<size_t>(tile_pixels * taps_of_pixel()) *
                                                            sizeof(const uint8_t*));
    for (int64_t t = 0; t < count; ++t, copies += block_channels) {
      std::memcpy(copies, taps[t], static_cast<size_t>(channels_));
      taps[t] = copies;
    }
  }

  int64_t channels_;
  core::Window window_;
  int64_t padded_channels_;
  std::vector<Arithmetic> arithmetics_;  // one for each sum
  AlignedVector<int32_t> bias_;          // folded, padded to a block; [sums][padded_channels_]
  AlignedVector<uint8_t> zero_pixel_;    // padded to a block
  Epilogue epilogue_;
};

template <class Arithmetic>
std::unique_ptr<PackedConv2d> pack_blocked_depthwise(const Conv2dProblem& problem) {
  validate(problem);
  require(is_depthwise(problem), "depthwise: groups must equal {} input and {} output channels, got {}",
          problem.in_channels, problem.out_channels, problem.groups);
  return std::make_unique<BlockedDepthwise<Arithmetic>>(problem);
}

template <class Arithmetic>
bool supports_blocked_depthwise(const Conv2dProblem& problem) {
  return is_depthwise(problem) && Arithmetic::supports(problem);
}

}  // namespace qstep::kernels
