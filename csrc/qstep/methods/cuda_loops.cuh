#pragma once
// The loops of loops.h for CUDA, over the same element structs and the same tiling.
//
// Sums run in two stages and a fixed order, without atomics: a block leaves one partial sum per channel and tile,
// then one block per channel adds these. A thread adds at most `chain` terms in their own precision before a double
// takes over.
#include <cuda_runtime.h>

#include <cstdint>

#include "qstep/methods/tiling.h"

namespace qstep::methods {

inline constexpr int block_size = 256;
inline constexpr int chain = 16;

namespace loops {

template <class Index, class Element>
__global__ void for_each_element(Element element, ChannelLayout layout, Index elements) {
  const auto channels = static_cast<Index>(layout.channels);
  const auto inner = static_cast<Index>(layout.inner);
  const Index step = static_cast<Index>(gridDim.x) * block_size;
  for (Index i = static_cast<Index>(blockIdx.x) * block_size + threadIdx.x; i < elements; i += step) {
    element.apply(i, element.grid(channels == 1 ? 0 : i / inner % channels));
  }
}

/// Two running sums of one thread.
template <class F>
class RunningSums {
 public:
  __device__ void add(Terms<F> terms) {
    part_.scale += terms.scale;
    part_.offset += terms.offset;
    if (++count_ == chain) flush();
  }
  __device__ Terms<double> total() {
    flush();
    return total_;
  }

 private:
  __device__ void flush() {
    total_.scale += static_cast<double>(part_.scale);
    total_.offset += static_cast<double>(part_.offset);
    part_ = {F(0), F(0)};
    count_ = 0;
  }

  Terms<F> part_{F(0), F(0)};
  Terms<double> total_{0.0, 0.0};
  int count_ = 0;
};

/// Adds the sums of threads t, t + stride, t + 2 stride, ... of a block, by halves; valid in threads below stride.
__device__ inline Terms<double> sum_over_block(Terms<double> sums, int stride) {
  __shared__ Terms<double> shared[block_size];
  const int thread = static_cast<int>(threadIdx.x);
  shared[thread] = sums;
  for (int width = block_size / 2; width >= stride; width /= 2) {
    __syncthreads();
    if (thread < width) {
      shared[thread].scale += shared[thread + width].scale;
      shared[thread].offset += shared[thread + width].offset;
    }
  }
  return shared[thread];
}

/// Neighbours share a channel: one block per tile (blockIdx.x) and channel of it (blockIdx.y).
template <class F, class Element>
__global__ void sum_runs(Element element, PartialSums sums, Tiling tiling) {
  const Tile tile = tiling.tile(blockIdx.x);
  const ChannelLayout layout = tiling.layout();
  const int64_t channel = tile.channel_begin + blockIdx.y;
  if (channel >= tile.channel_end) return;
  const auto grid = element.grid(channel);
  const auto length = static_cast<int>(tile.inner_end - tile.inner_begin);
  const int elements = length * static_cast<int>(tile.outer_end - tile.outer_begin);
  RunningSums<F> running;
  for (int k = static_cast<int>(threadIdx.x); k < elements; k += block_size) {
    const int64_t outer = tile.outer_begin + k / length;
    running.add(
        element.apply((outer * layout.channels + channel) * layout.inner + tile.inner_begin + k % length, grid));
  }
  const Terms<double> total = sum_over_block(running.total(), 1);
  if (threadIdx.x == 0) {
    sums.scale[tile.partial_row * layout.channels + channel] = total.scale;
    sums.offset[tile.partial_row * layout.channels + channel] = total.offset;
  }
}

/// Neighbours are channels: a block has 32 of them side by side (blockIdx.y counts these groups) and 8 rows of a tile
/// at a time.
template <class F, class Element>
__global__ void sum_columns(Element element, PartialSums sums, Tiling tiling) {
  constexpr int columns = 32;
  const Tile tile = tiling.tile(blockIdx.x);
  const int64_t channels = tiling.layout().channels;
  const int64_t channel = tile.channel_begin + static_cast<int64_t>(blockIdx.y) * columns + threadIdx.x % columns;
  RunningSums<F> running;
  if (channel < tile.channel_end) {
    const auto grid = element.grid(channel);
    for (int64_t outer = tile.outer_begin + threadIdx.x / columns; outer < tile.outer_end;
         outer += block_size / columns) {
      running.add(element.apply(outer * channels + channel, grid));
    }
  }
  const Terms<double> total = sum_over_block(running.total(), columns);
  if (threadIdx.x < columns && channel < tile.channel_end) {
    sums.scale[tile.partial_row * channels + channel] = total.scale;
    sums.offset[tile.partial_row * channels + channel] = total.offset;
  }
}

/// totals[channel] = sum over the rows of partial sums; one block per channel.
template <class Sums>
__global__ void sum_partials(Sums partial, Sums totals, int64_t rows, int64_t channels) {
  const int64_t channel = blockIdx.x;
  Terms<double> running{0.0, 0.0};
  for (int64_t row = threadIdx.x; row < rows; row += block_size) {
    running.scale += partial.scale[row * channels + channel];
    running.offset += partial.offset[row * channels + channel];
  }
  const Terms<double> total = sum_over_block(running, 1);
  if (threadIdx.x == 0) {
    totals.scale[channel] = total.scale;
    totals.offset[channel] = total.offset;
  }
}

}  // namespace loops

/// Calls element.apply for every element of the layout. Returns whether the kernel was accepted.
template <class Element>
cudaError_t for_each_element_cuda(const Element& element, ChannelLayout layout, cudaStream_t stream) {
  const int64_t elements = layout.outer * layout.channels * layout.inner;
  if (elements == 0) return cudaSuccess;
  constexpr int64_t max_blocks = 1 << 16;
  const int64_t blocks = (elements + block_size - 1) / block_size;
  const auto used = static_cast<unsigned>(blocks < max_blocks ? blocks : max_blocks);
  if (elements < (int64_t{1} << 30)) {  // 32-bit division is several times faster
    loops::for_each_element<uint32_t>
        <<<used, block_size, 0, stream>>>(element, layout, static_cast<uint32_t>(elements));
  } else {
    loops::for_each_element<uint64_t>
        <<<used, block_size, 0, stream>>>(element, layout, static_cast<uint64_t>(elements));
  }
  return cudaGetLastError();
}

/// The same, and the sums of the terms per channel into totals, by way of the partial sums. Device memory.
template <class F, class Element>
cudaError_t sum_elements_cuda(const Element& element, PartialSums partial, PartialSums totals, const Tiling& tiling,
                              cudaStream_t stream) {
  const ChannelLayout layout = tiling.layout();
  if (layout.channels == 0) return cudaSuccess;
  const auto tiles = static_cast<unsigned>(tiling.tiles());
  const auto channels = static_cast<unsigned>(tiling.channels_per_tile());
  if (tiles > 0 && layout.inner == 1) {
    loops::sum_columns<F><<<dim3(tiles, (channels + 31) / 32), block_size, 0, stream>>>(element, partial, tiling);
  } else if (tiles > 0) {
    loops::sum_runs<F><<<dim3(tiles, channels), block_size, 0, stream>>>(element, partial, tiling);
  }
  loops::sum_partials<<<static_cast<unsigned>(layout.channels), block_size, 0, stream>>>(
      partial, totals, tiling.partial_rows(), layout.channels);
  return cudaGetLastError();
}

}  // namespace qstep::methods
