#pragma once
// The two loops of every fake quantizer on the CPU: over elements, and over elements with two sums per channel.
//
// A loop is written once, over the scalar formulas of a math.h, in always-inline templates, and compiled twice: for
// the baseline of the architecture, and for AVX2. The compiler vectorises it (methods/CMakeLists.txt sets the flags
// that let it), and both give the same bits: every operation is rounded once (no contraction), and sums are taken in
// the order of pairwise_sum, not of the vector registers.
//
// What is done to an element is a small struct (elements.h of each method), which the CUDA loops use as well:
//   grid(channel)          the parameters of a channel, by value
//   apply(position, grid)  reads and writes memory at `position`; for sums, returns Terms<F>
#include <algorithm>
#include <cstdint>

#include "qstep/kernels/isa.h"
#include "qstep/methods/tiling.h"

#define QSTEP_ALWAYS_INLINE inline __attribute__((always_inline))

// Input and output of a loop never overlap, or are the same memory element by element.
#if defined(__clang__)
#define QSTEP_INDEPENDENT_ITERATIONS _Pragma("clang loop vectorize(assume_safety)")
#else
#define QSTEP_INDEPENDENT_ITERATIONS _Pragma("GCC ivdep")
#endif

namespace qstep::methods {

/// Elements that are summed in their own precision before a double takes over. By halves this is log2(256) = 8
/// roundings: at most 4.8e-7 of the sum of magnitudes in float32.
inline constexpr int sum_block = 256;

namespace loops {

template <class Element>
QSTEP_ALWAYS_INLINE void for_each_element_loop(const Element& element, const Tiling& tiling, int64_t first,
                                               int64_t last) {
  const auto [outers, channels, inners] = tiling.layout();
  for (int64_t index = first; index < last; ++index) {
    const Tile tile = tiling.tile(index);
    for (int64_t outer = tile.outer_begin; outer < tile.outer_end; ++outer) {
      if (inners == 1) {  // neighbours in memory are neighbouring channels
        QSTEP_INDEPENDENT_ITERATIONS
        for (int64_t channel = tile.channel_begin; channel < tile.channel_end; ++channel) {
          element.apply(outer * channels + channel, element.grid(channel));
        }
        continue;
      }
      for (int64_t channel = tile.channel_begin; channel < tile.channel_end; ++channel) {
        const auto grid = element.grid(channel);
        const int64_t row = (outer * channels + channel) * inners;
        QSTEP_INDEPENDENT_ITERATIONS
        for (int64_t i = row + tile.inner_begin; i < row + tile.inner_end; ++i) element.apply(i, grid);
      }
    }
  }
}

/// Sum of values[0 .. width) by halves, width a power of two. Overwrites values.
template <int width, class F>
QSTEP_ALWAYS_INLINE F pairwise_sum(F* values) {
  if constexpr (width == 1) {
    return values[0];
  } else {
    for (int i = 0; i < width / 2; ++i) values[i] += values[i + width / 2];
    return pairwise_sum<width / 2>(values);
  }
}

/// Applies element to `count` positions from `begin`, at most `width`, and adds their terms to the sums. The terms
/// are padded with zeros to a power of two, which changes no sum.
template <int width, class F, class Element, class Grid>
QSTEP_ALWAYS_INLINE void sum_run(const Element& element, const Grid& grid, int64_t begin, int count, double& scale,
                                 double& offset) {
  if constexpr (width > 4) {
    if (count <= width / 4) return sum_run<width / 4, F>(element, grid, begin, count, scale, offset);
  }
  F scale_terms[width];
  F offset_terms[width];
  QSTEP_INDEPENDENT_ITERATIONS
  for (int i = 0; i < count; ++i) {
    const Terms<F> terms = element.apply(begin + i, grid);
    scale_terms[i] = terms.scale;
    offset_terms[i] = terms.offset;
  }
  for (int i = count; i < width; ++i) scale_terms[i] = offset_terms[i] = 0;
  scale += static_cast<double>(pairwise_sum<width>(scale_terms));
  offset += static_cast<double>(pairwise_sum<width>(offset_terms));
}

template <class F, class Element>
QSTEP_ALWAYS_INLINE void sum_elements_loop(const Element& element, PartialSums sums, const Tiling& tiling,
                                           int64_t first, int64_t last) {
  const auto [outers, channels, inners] = tiling.layout();
  for (int64_t index = first; index < last; ++index) {
    const Tile tile = tiling.tile(index);
    double* __restrict scale = sums.scale + tile.partial_row * channels;
    double* __restrict offset = sums.offset + tile.partial_row * channels;
    std::fill(scale + tile.channel_begin, scale + tile.channel_end, 0.0);
    std::fill(offset + tile.channel_begin, offset + tile.channel_end, 0.0);
    for (int64_t outer = tile.outer_begin; outer < tile.outer_end; ++outer) {
      if (inners == 1) {
        QSTEP_INDEPENDENT_ITERATIONS
        for (int64_t channel = tile.channel_begin; channel < tile.channel_end; ++channel) {
          const Terms<F> terms = element.apply(outer * channels + channel, element.grid(channel));
          scale[channel] += static_cast<double>(terms.scale);
          offset[channel] += static_cast<double>(terms.offset);
        }
        continue;
      }
      for (int64_t channel = tile.channel_begin; channel < tile.channel_end; ++channel) {
        const auto grid = element.grid(channel);
        const int64_t end = (outer * channels + channel) * inners + tile.inner_end;
        int64_t i = (outer * channels + channel) * inners + tile.inner_begin;
        for (; i + sum_block <= end; i += sum_block)
          sum_run<sum_block, F>(element, grid, i, sum_block, scale[channel], offset[channel]);
        if (i < end)
          sum_run<sum_block, F>(element, grid, i, static_cast<int>(end - i), scale[channel], offset[channel]);
      }
    }
  }
}

#if defined(__x86_64__)

template <class Element>
__attribute__((target("avx2"))) void for_each_element_avx2(const Element& element, const Tiling& tiling, int64_t first,
                                                           int64_t last) {
  for_each_element_loop(element, tiling, first, last);
}

template <class F, class Element>
__attribute__((target("avx2"))) void sum_elements_avx2(const Element& element, PartialSums sums, const Tiling& tiling,
                                                       int64_t first, int64_t last) {
  sum_elements_loop<F>(element, sums, tiling, first, last);
}

#endif

}  // namespace loops

/// Calls element.apply for every element of the tiles [first, last).
template <class Element>
void for_each_element(const Element& element, const Tiling& tiling, int64_t first, int64_t last) {
#if defined(__x86_64__)
  if (kernels::current_isa() != kernels::Isa::reference)
    return loops::for_each_element_avx2(element, tiling, first, last);
#endif
  loops::for_each_element_loop(element, tiling, first, last);
}

/// The same, and the sums of the terms that the elements return, in F per block and in double beyond.
template <class F, class Element>
void sum_elements(const Element& element, PartialSums sums, const Tiling& tiling, int64_t first, int64_t last) {
#if defined(__x86_64__)
  if (kernels::current_isa() != kernels::Isa::reference)
    return loops::sum_elements_avx2<F>(element, sums, tiling, first, last);
#endif
  loops::sum_elements_loop<F>(element, sums, tiling, first, last);
}

}  // namespace qstep::methods
