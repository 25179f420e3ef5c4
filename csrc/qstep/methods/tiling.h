#pragma once
// How work on a tensor with one grid per channel is cut into tiles.
//
// Any dense memory layout is outer x channels x inner: element m of memory belongs to channel (m / inner) % channels.
// NCHW activations have inner = H * W, channels-last ones and matrices inner = 1; a per-tensor grid has one channel and
// outer = 1.
//
// The cut depends on the shape only, never on the number of threads. A tile leaves one partial sum per channel and
// the partial sums are added in order, so every reduction is the same from run to run.
#include <algorithm>
#include <cstdint>

#include "qstep/core/platform.h"

namespace qstep::methods {

struct ChannelLayout {
  int64_t outer = 1;
  int64_t channels = 1;
  int64_t inner = 0;
};

/// Half-open ranges of a ChannelLayout, and the row of partial sums that the tile fills in the columns of its channels.
struct Tile {
  int64_t outer_begin, outer_end;
  int64_t channel_begin, channel_end;
  int64_t inner_begin, inner_end;
  int64_t partial_row;
};

/// What one element adds to the sums of its channel.
template <class F>
struct Terms {
  F scale;
  F offset;
};

/// Where the sums go: Tiling::partial_rows() x channels doubles each; every tile writes its own places.
struct PartialSums {
  double* scale;
  double* offset;
};

/// Made on the host; may be copied to a device and read there.
class Tiling {
 public:
  explicit Tiling(ChannelLayout layout) : layout_(layout) {
    if (layout.outer == 0 || layout.channels == 0 || layout.inner == 0) return;
    inner_step_ = std::min(layout.inner, max_run);
    outer_step_ = std::min(layout.outer, std::max<int64_t>(1, min_elements_per_partial / inner_step_));
    channel_step_ = std::min(layout.channels, std::max<int64_t>(1, elements_per_tile / (inner_step_ * outer_step_)));
    outer_blocks_ = ceil_divide(layout.outer, outer_step_);
    channel_blocks_ = ceil_divide(layout.channels, channel_step_);
    inner_blocks_ = ceil_divide(layout.inner, inner_step_);
  }

  QSTEP_HOST_DEVICE ChannelLayout layout() const { return layout_; }
  QSTEP_HOST_DEVICE int64_t channels_per_tile() const { return channel_step_; }
  QSTEP_HOST_DEVICE int64_t tiles() const { return outer_blocks_ * channel_blocks_ * inner_blocks_; }
  QSTEP_HOST_DEVICE int64_t partial_rows() const { return outer_blocks_ * inner_blocks_; }

  /// Tiles that are worth a thread of their own.
  int64_t grain() const {
    const int64_t elements_of_one = inner_step_ * outer_step_ * channel_step_;
    return std::max<int64_t>(1, elements_per_tile / elements_of_one);
  }

  /// Tiles in the order of memory.
  QSTEP_HOST_DEVICE Tile tile(int64_t index) const {
    const int64_t inner = index % inner_blocks_;
    const int64_t channel = index / inner_blocks_ % channel_blocks_;
    const int64_t outer = index / inner_blocks_ / channel_blocks_;
    return {outer * outer_step_,          end_of(outer, outer_step_, layout_.outer),
            channel * channel_step_,      end_of(channel, channel_step_, layout_.channels),
            inner * inner_step_,          end_of(inner, inner_step_, layout_.inner),
            outer * inner_blocks_ + inner};
  }

 private:
  static constexpr int64_t max_run = 8192;                  ///< neighbours of one channel in one tile
  static constexpr int64_t min_elements_per_partial = 512;  ///< keeps partial sums below 1 % of what they sum
  static constexpr int64_t elements_per_tile = 32768;       ///< enough to pay for handing a tile to a thread

  QSTEP_HOST_DEVICE static int64_t end_of(int64_t block, int64_t step, int64_t size) {
    return (block + 1) * step < size ? (block + 1) * step : size;
  }
  static int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

  ChannelLayout layout_;
  int64_t outer_step_ = 1, channel_step_ = 1, inner_step_ = 1;
  int64_t outer_blocks_ = 0, channel_blocks_ = 0, inner_blocks_ = 0;
};

}  // namespace qstep::methods
