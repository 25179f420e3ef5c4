#pragma once
// The driver of the blocked matrix kernels, whatever their instruction set.
//
// Columns are packed in panels of tile_columns. A block of input rows is staged (copied into scratch in the form that
// the arithmetic wants, next to each other) and every panel is multiplied with it tile by tile, so that a panel is
// read once per block and a tile of accumulators goes to the epilogue while it is in the first-level cache. A
// convolution is the same product with rows that are gathered tap by tap; grouped ones have `groups` independent
// matrices. Where a layer has several sums per output, the panels of all of them lie next to each other, and a tile of
// each is ready when the epilogue combines them.
//
// An Arithmetic holds packed panels and multiplies one tile:
//   using Code            the type that input codes are staged as
//   tile_rows             rows of the largest tile
//   depth_step            depth is padded to a multiple of it, with zero weights
//   Arithmetic(problem, groups), bytes()
//   multiply(panel, rows, input, stride, bias, tile)   tile[rows][tile_columns] = bias + input * panel
//   stage(input, count, output)                        copy of codes as Code
//   finish(epilogue, tile, output)
//
// Rows are the rows of the product:
//   count()                                     how many there are
//   stage<Arithmetic>(first, count, group, output, stride)
//   contiguous(first, group, stride)   where the codes of rows first, first + 1, ... lie `stride` apart, or null
//   output_offsets(first, count, offsets)
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/epilogue/epilogue.h"
#include "qstep/kernels/gemm/gemm.h"
#include "qstep/kernels/layout.h"

namespace qstep::kernels {

constexpr int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class Arithmetic>
class PanelGemm {
 public:
  using Code = typename Arithmetic::Code;

  PanelGemm(const GemmProblem& problem, int64_t groups)
      : depth_(problem.depth),
        group_columns_(problem.columns / groups),
        panels_(ceil_divide(group_columns_, tile_columns)),
        groups_(groups),
        sums_(problem.sums()),
        arithmetic_(make_arithmetic(problem, groups)),
        bias_(static_cast<size_t>(groups * panels_ * sums_ * tile_columns), 0),
        epilogue_(problem.requantization, problem.columns, accumulator_bound(problem)) {
    for (int64_t n = 0; n < problem.columns; ++n) {
      for (int k = 0; k < sums_; ++k) {
        bias_[static_cast<size_t>(place(n, k, group_columns_, sums_))] = folded_bias(problem, n, k);
      }
    }
  }

  size_t packed_bytes() const { return arithmetic_.bytes() + bias_.size() * sizeof(int32_t); }
  size_t scratch_bytes() const { return static_cast<size_t>(block_tiles() * tile_rows * stride()) * sizeof(Code); }

  /// An item is a tile of rows times all panels of a group, or all rows times one panel where that makes more items.
  int64_t work_items(int64_t rows) const {
    const int64_t tiles = ceil_divide(rows, tile_rows);
    return rows == 0 ? 0 : groups_ * std::max(tiles, panels_);
  }

  template <class Rows>
  void run(const Rows& rows, const Output& output, Range items, std::byte* scratch) const {
    const int64_t tiles = ceil_divide(rows.count(), tile_rows);
    const int64_t items_per_group = std::max(tiles, panels_);
    while (items.begin < items.end) {
      const int64_t group = items.begin / items_per_group;
      const int64_t start = group * items_per_group;
      const Range part{items.begin - start, std::min(items.end - start, items_per_group)};
      if (tiles >= panels_) {
        multiply(rows, group, part, {0, panels_}, output, scratch);
      } else {
        multiply(rows, group, {0, tiles}, part, output, scratch);
      }
      items.begin = start + part.end;
    }
  }

 private:
  static constexpr int tile_rows = Arithmetic::tile_rows;
  static constexpr int tile_size = tile_rows * tile_columns;
  static constexpr int64_t max_block_tiles = 16;
  static constexpr int64_t block_bytes = 64 * 1024;  // leaves room for a panel in a 256 KiB second-level cache

  /// Where column n of sum k lies among all columns of [groups][panels][sums][tile_columns].
  static int64_t place(int64_t n, int k, int64_t group_columns, int sums) {
    const int64_t column = n % group_columns;
    const int64_t panel = n / group_columns * ceil_divide(group_columns, tile_columns) + column / tile_columns;
    return (panel * sums + k) * tile_columns + column % tile_columns;
  }

  /// Several sums are one matrix with the columns of all of them in that order, zero where there are none.
  static Arithmetic make_arithmetic(const GemmProblem& problem, int64_t groups) {
    if (problem.sums() == 1) return Arithmetic(problem, groups);
    const int64_t group_columns = problem.columns / groups;
    GemmProblem all = problem;
    all.columns = groups * ceil_divide(group_columns, tile_columns) * problem.sums() * tile_columns;
    std::vector<int16_t> weights(static_cast<size_t>(all.columns * problem.depth), 0);
    for (int k = 0; k < problem.sums(); ++k) {
      for (int64_t n = 0; n < problem.columns; ++n) {
        std::copy_n(problem.weights.begin() + (k * problem.columns + n) * problem.depth, problem.depth,
                    weights.begin() + place(n, k, group_columns, problem.sums()) * problem.depth);
      }
    }
    all.weights = weights;
    return Arithmetic(all, groups);
  }

  int64_t stride() const { return ceil_divide(depth_, 32) * 32; }  // of staged rows: whole vectors

  int64_t block_tiles() const {
    const int64_t tile_bytes = tile_rows * stride() * static_cast<int64_t>(sizeof(Code));
    return std::clamp<int64_t>(block_bytes / tile_bytes, 1, max_block_tiles);
  }

  template <class Rows>
  void multiply(const Rows& rows, int64_t group, Range tiles, Range panels, const Output& output,
                std::byte* scratch) const {
    const int64_t last_row = std::min(tiles.end * tile_rows, rows.count());
    const int64_t block_rows = block_tiles() * tile_rows;
    for (int64_t first = tiles.begin * tile_rows; first < last_row; first += block_rows) {
      multiply_block(rows, group, first, static_cast<int>(std::min(block_rows, last_row - first)), panels, output,
                     scratch);
    }
  }

  template <class Rows>
  void multiply_block(const Rows& rows, int64_t group, int64_t first, int count, Range panels, const Output& output,
                      std::byte* scratch) const {
    int64_t input_stride = 0;
    const Code* input = block_input(rows, group, first, count, input_stride, scratch);
    int64_t output_offsets[max_block_tiles * tile_rows];
    rows.output_offsets(first, count, output_offsets);
    alignas(memory_alignment) int32_t accumulators[max_sums * tile_size];
    for (int64_t p = panels.begin; p < panels.end; ++p) {
      const int64_t panel = group * panels_ + p;
      const int channels = static_cast<int>(std::min<int64_t>(tile_columns, group_columns_ - p * tile_columns));
      for (int r = 0; r < count; r += tile_rows) {
        const int tile = std::min(tile_rows, count - r);
        for (int k = 0; k < sums_; ++k) {
          arithmetic_.multiply(panel * sums_ + k, tile, input + r * input_stride, input_stride,
                               &bias_[static_cast<size_t>((panel * sums_ + k) * tile_columns)],
                               accumulators + k * tile_size);
        }
        Arithmetic::finish(epilogue_,
                           {.accumulators = accumulators,
                            .sum_stride = tile_size,
                            .rows = tile,
                            .first_channel = group * group_columns_ + p * tile_columns,
                            .channels = channels,
                            .row_offsets = output_offsets + r},
                           output);
      }
    }
  }

  /// The codes of `count` rows: where they lie, if the arithmetic can read them there, else staged.
  template <class Rows>
  const Code* block_input(const Rows& rows, int64_t group, int64_t first, int count, int64_t& input_stride,
                          std::byte* scratch) const {
    if constexpr (std::is_same_v<Code, uint8_t>) {
      if (depth_ % Arithmetic::depth_step == 0) {
        if (const uint8_t* input = rows.contiguous(first, group, input_stride); input != nullptr) return input;
      }
    }
    input_stride = stride();
    auto* staged = reinterpret_cast<Code*>(scratch);
    rows.template stage<Arithmetic>(first, count, group, staged, input_stride);
    for (int r = 0; r < count; ++r) {
      std::fill(staged + r * input_stride + depth_, staged + (r + 1) * input_stride, Code{0});
    }
    return staged;
  }

  int64_t depth_;
  int64_t group_columns_;
  int64_t panels_;  // per group
  int64_t groups_;
  int sums_;
  Arithmetic arithmetic_;
  AlignedVector<int32_t> bias_;  // folded; [groups][panels][sums][tile_columns]
  Epilogue epilogue_;
};

/// The rows of a matrix in memory.
struct MatrixRows {
  const GemmArguments& arguments;
  int64_t depth;

  int64_t count() const { return arguments.rows; }

  const uint8_t* contiguous(int64_t first, int64_t, int64_t& stride) const {
    stride = arguments.input_stride;
    return arguments.input + first * stride;
  }

  template <class Arithmetic>
  void stage(int64_t first, int count, int64_t, typename Arithmetic::Code* output, int64_t stride) const {
    for (int r = 0; r < count; ++r) {
      Arithmetic::stage(arguments.input + (first + r) * arguments.input_stride, depth, output + r * stride);
    }
  }

  void output_offsets(int64_t first, int count, int64_t* offsets) const {
    for (int r = 0; r < count; ++r) offsets[r] = (first + r) * arguments.output_stride;
  }
};

/// PackedGemm over an Arithmetic.
template <class Arithmetic>
class PackedPanelGemm final : public PackedGemm {
 public:
  explicit PackedPanelGemm(const GemmProblem& problem) : depth_(problem.depth), gemm_(problem, 1) {}

  int64_t work_items(int64_t rows) const override { return gemm_.work_items(rows); }
  size_t scratch_bytes(int64_t) const override { return gemm_.scratch_bytes(); }
  size_t packed_bytes() const override { return gemm_.packed_bytes(); }

  void run(const GemmArguments& arguments, Range items, std::byte* scratch) const override {
    gemm_.run(MatrixRows{arguments, depth_}, arguments.output, items, scratch);
  }

 private:
  int64_t depth_;
  PanelGemm<Arithmetic> gemm_;
};

template <class Arithmetic>
std::unique_ptr<PackedGemm> pack_panel_gemm(const GemmProblem& problem) {
  validate(problem);
  return std::make_unique<PackedPanelGemm<Arithmetic>>(problem);
}

}  // namespace qstep::kernels
