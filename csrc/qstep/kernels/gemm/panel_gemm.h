#pragma once
// The driver of the blocked matrix kernels, whatever their instruction set.
//
// Columns are packed in panels of tile_columns. A block of input rows is made readable (where it lies, or copied into
// scratch) and every panel is multiplied with it tile by tile, so that a panel is read once per block and a tile of
// accumulators goes to the epilogue while it is in the first-level cache. A convolution is the same product with rows
// that are gathered tap by tap; grouped ones have `groups` independent matrices. Where a layer has several sums per
// output, the panels of all of them lie next to each other, and a tile of each is ready when the epilogue combines them.
//
// An Arithmetic holds packed panels and multiplies one tile:
//   using Code              the type of input codes in scratch; those in memory can be read only as uint8_t
//   depth_step              depth is padded to a multiple of it, with zero weights
//   depth_run               a multiple of it: so much of the depth, from each multiple on, lies next to each other
//   tile_rows               rows of the largest tile
//   tile_panels(rows)       neighbouring panels that a tile of so many rows takes at most
//   supports(problem)       true where it is right
//   Arithmetic(problem, groups), bytes()
//   multiply(panel, panels, input, bias, tile)   tile[panels][tile_rows][tile_columns] = bias + input * panels
//   stage(input, count, output)                  copy of codes as Code
//   stage_copies(code, count, output)            the same of one code, where it is not just converted
//   finish(epilogue, tile, output)
// if it is right for more than it is fast for:
//   suits(problem)                               true for one that it is fast for, on this CPU
// if the accumulators of a row have a part that is the same in all columns:
//   row_parts(rows, steps, parts)                those parts, which multiply adds: see TileInput
// if blocks of rows had better be larger than usual, because weights are large next to rows:
//   staged_bytes                                 of a block that is copied
// if sums of rows are multiplied too:
//   combine_rows(rows, count, length)            computes them. Rows are copied into scratch, 2 * length apart: the codes,
//                                                as many as multiples of depth_step, and room for sums. A last one
//                                                without another one is copied. Tiles begin with the first row of a pair
// and, if it has them, instead of multiply and finish where the epilogue allows:
//   finishes_in_registers(epilogue)
//   multiply_and_finish(panel, panels, input, bias, epilogue, tile, output)   any number of panels; tile: of all of them,
//                                                                             without accumulators
// if that takes several tiles, one below the other:
//   takes_tiles                                  true
//
// Rows are the rows of the product:
//   count()                                  how many there are
//   steps()                                  see TileInput
//   block_end(first, limit)                  rows [first, block_end) are gathered at once: limit or fewer
//   gather(first, count, group, pointers)    makes rows readable until the next call: see TileInput
//   output_offsets(first, count, offsets)
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/epilogue/epilogue.h"
#include "qstep/kernels/gemm/gemm.h"
#include "qstep/kernels/layout.h"

namespace qstep::kernels {

/// The rows of one tile: the depth_step codes of row r for step s lie at row[r] + steps[s].
template <class Code>
struct TileInput {
  int rows;   ///< 1..tile_rows
  int tiles;  ///< of so many rows each, one after another; 1 where the arithmetic does not say that it takes more
  const Code* const* row;
  const int32_t* steps;                ///< one for each depth_step of the depth
  const int32_t* row_parts = nullptr;  ///< of each row, where the arithmetic has row_parts
};

/// Rows that are gathered at once, at most.
inline constexpr int64_t max_block_rows = 512;

/// Bytes of input that are multiplied with one panel after another: room for them and a panel in a second-level cache.
inline constexpr int64_t block_bytes = 128 * 1024;

template <class Arithmetic>
inline constexpr bool combines_rows = requires(typename Arithmetic::Code* rows) {
  Arithmetic::combine_rows(rows, 0, 0);
};

template <class Arithmetic>
class PanelGemm {
 public:
  using Code = typename Arithmetic::Code;

  PanelGemm(const GemmProblem& problem, int64_t groups)
      : group_columns_(problem.columns / groups),
        panels_(ceil_divide(group_columns_, tile_columns)),
        groups_(groups),
        sums_(problem.sums()),
        arithmetic_(make_arithmetic(problem, groups)),
        cached_tiles_(fitting_tiles(problem.depth)),
        cached_panels_(fitting_panels()),
        bias_(static_cast<size_t>(groups * panels_ * sums_ * tile_columns), 0),
        epilogue_(problem.requantization, problem.columns, accumulator_bound(problem)) {
    for (int64_t n = 0; n < problem.columns; ++n) {
      for (int k = 0; k < sums_; ++k) {
        bias_[static_cast<size_t>(place(n, k, group_columns_, sums_))] = folded_bias(problem, n, k);
      }
    }
  }

  size_t packed_bytes() const { return arithmetic_.bytes() + bias_.size() * sizeof(int32_t); }

  /// An item is a tile of rows times as many panels as the tile takes.
  int64_t work_items(int64_t rows) const { return groups_ * row_items(rows) * panel_items(); }

  template <class Rows>
  void run(Rows& rows, const Output& output, Range items) const {
    const int64_t row_items = this->row_items(rows.count());
    const int64_t group_items = row_items * panel_items();
    while (items.begin < items.end) {
      const int64_t group = items.begin / group_items;
      const int64_t start = group * group_items;
      const Range part{items.begin - start, std::min(items.end - start, group_items)};
      // Neighbouring items share what there is less of.
      if (row_items >= panel_items()) {
        const Rectangle r = first_rectangle(part, panel_items());
        multiply(rows, group, r.outer, r.inner, output);
        items.begin += r.items();
      } else {
        const Rectangle r = first_rectangle(part, row_items);
        multiply(rows, group, r.inner, r.outer, output);
        items.begin += r.items();
      }
    }
  }

 private:
  static constexpr int tile_rows = Arithmetic::tile_rows;
  static constexpr int unit = combines_rows<Arithmetic> ? 2 : 1;  // rows that are in one tile
  static constexpr int item_panels = Arithmetic::tile_panels(tile_rows);
  static constexpr int tile_size = tile_rows * tile_columns;
  static constexpr bool has_row_parts = requires(const Arithmetic& a) { a.row_parts({}, nullptr, nullptr); };
  static constexpr int max_tile_panels = std::max(max_sums, Arithmetic::tile_panels(1));

  /// Items of a range that runs along the inner of two dimensions.
  struct Rectangle {
    Range outer;
    Range inner;

    int64_t items() const { return (outer.end - outer.begin) * (inner.end - inner.begin); }
  };

  static Rectangle first_rectangle(Range items, int64_t inner) {
    const int64_t outer = items.begin / inner;
    const int64_t begin = items.begin % inner;
    const int64_t count = items.end - items.begin;
    if (begin == 0 && count >= inner) return {{outer, outer + count / inner}, {0, inner}};
    return {{outer, outer + 1}, {begin, std::min(inner, begin + count)}};
  }

  /// Panels whose weights stay in a first-level cache next to rows of input: whole items.
  int64_t fitting_panels() const {
    constexpr int64_t cached_bytes = 16 * 1024;
    const auto panel_bytes = static_cast<int64_t>(arithmetic_.bytes()) / std::max<int64_t>(groups_ * panels_, 1);
    return std::max<int64_t>(cached_bytes / std::max<int64_t>(panel_bytes * item_panels, 1), 1) * item_panels;
  }

  /// Tiles of input that stay there next to the weights.
  static int fitting_tiles(int64_t depth) {
    if constexpr (requires { Arithmetic::takes_tiles; }) {
      constexpr int64_t cached_bytes = 16 * 1024;
      return static_cast<int>(
          std::max<int64_t>(cached_bytes / (tile_rows * depth * static_cast<int64_t>(sizeof(Code))), 1));
    }
    return 1;
  }

  int64_t row_items(int64_t rows) const { return ceil_divide(rows, tile_rows); }
  int64_t panel_items() const { return ceil_divide(panels_, item_panels); }

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

  /// row_items and panel_items are ranges of items along rows and panels.
  template <class Rows>
  void multiply(Rows& rows, int64_t group, Range row_items, Range panel_items, const Output& output) const {
    const Range panels{panel_items.begin * item_panels, std::min(panel_items.end * item_panels, panels_)};
    const int64_t last = std::min(row_items.end * tile_rows, rows.count());
    for (int64_t first = row_items.begin * tile_rows; first < last;) {
      const int64_t end = rows.block_end(first, last);
      multiply_block(rows, group, first, static_cast<int>(end - first), panels, output);
      first = end;
    }
  }

  template <class Rows>
  void multiply_block(Rows& rows, int64_t group, int64_t first, int count, Range panels, const Output& output) const {
    const Code* pointers[max_block_rows];
    rows.gather(first, count, group, pointers);
    int64_t output_offsets[max_block_rows];
    rows.output_offsets(first, count, output_offsets);
    int32_t row_parts[max_block_rows];
    if constexpr (has_row_parts) {
      arithmetic_.row_parts({pointers, static_cast<size_t>(count)}, rows.steps(), row_parts);
    }
    if (count % unit != 0) output_offsets[count] = output_offsets[count - 1];
    // Tiles of nearly equal height: a last one of a single row would run at a fraction of the speed.
    const int tiles = static_cast<int>(ceil_divide(count, tile_rows));
    const int units = static_cast<int>(ceil_divide(count, unit));
    const int height = units / tiles;
    const int higher = units % tiles;
    const int64_t at_once = tiles > 1 ? cached_panels_ : panels.end - panels.begin;
    const int tiles_at_once = finishes_in_registers() ? cached_tiles_ : 1;
    const int64_t step = tile_step(unit * (height + (higher > 0 ? 1 : 0)), at_once);
    for (int64_t start = panels.begin; start < panels.end; start += at_once) {
      const int64_t end = std::min(start + at_once, panels.end);
      int begin = 0;
      for (int t = 0; t < tiles;) {
        const int tile_height = std::min(unit * (height + (t < higher ? 1 : 0)), count - begin);
        const int run = std::min(tiles_at_once, (t < higher ? higher : tiles) - t);
        for (int64_t p = start; p < end; p += step) {
          multiply_tile(group, p, static_cast<int>(std::min<int64_t>(step, end - p)),
                        {tile_height, run, pointers + begin, rows.steps(), row_parts + begin}, output_offsets + begin,
                        output);
        }
        begin += run * tile_height;
        t += run;
      }
    }
  }

  bool finishes_in_registers() const {
    if constexpr (requires { Arithmetic::finishes_in_registers(epilogue_); }) {
      return sums_ == 1 && Arithmetic::finishes_in_registers(epilogue_);
    }
    return false;
  }

  /// Panels of a run of them that a tile of so many rows is multiplied with at once.
  int64_t tile_step(int rows, int64_t run) const {
    if (finishes_in_registers()) return run;
    return sums_ == 1 ? Arithmetic::tile_panels(rows) : 1;
  }

  void multiply_tile(int64_t group, int64_t first_panel, int panels, const TileInput<Code>& input,
                     const int64_t* output_offsets, const Output& output) const {
    const int64_t first = (group * panels_ + first_panel) * sums_;
    const int32_t* bias = &bias_[static_cast<size_t>(first * tile_columns)];
    const int64_t column = first_panel * tile_columns;
    AccumulatorTile tile{
        .sum_stride = tile_size,
        .rows = input.rows,
        .first_channel = group * group_columns_ + column,
        .channels = static_cast<int>(std::min<int64_t>(panels * tile_columns, group_columns_ - column)),
        .row_offsets = output_offsets};
    if constexpr (requires { Arithmetic::finishes_in_registers(epilogue_); }) {
      if (finishes_in_registers()) {
        return arithmetic_.multiply_and_finish(first, panels, input, bias, epilogue_, tile, output);
      }
    }
    alignas(memory_alignment) int32_t accumulators[max_tile_panels * tile_size];
    const int all = panels * sums_;
    const int step = Arithmetic::tile_panels(input.rows);
    for (int p = 0; p < all; p += step) {
      arithmetic_.multiply(first + p, std::min(step, all - p), input, bias + p * tile_columns,
                           accumulators + p * tile_size);
    }
    tile.accumulators = accumulators;
    for (int channels = tile.channels; channels > 0; channels -= tile_columns) {
      tile.channels = std::min(channels, tile_columns);
      Arithmetic::finish(epilogue_, tile, output);
      tile.accumulators += sums_ * tile_size;
      tile.first_channel += tile_columns;
    }
  }

  int64_t group_columns_;
  int64_t panels_;  // per group
  int64_t groups_;
  int sums_;
  Arithmetic arithmetic_;
  int cached_tiles_;             // that are multiplied with a panel before the next one is
  int64_t cached_panels_;        // that a tile of rows is multiplied with before the next tile is
  AlignedVector<int32_t> bias_;  // folded; [groups][panels][sums][tile_columns]
  Epilogue epilogue_;
};

/// Scratch of rows: where the steps lie, then `codes` codes.
template <class Arithmetic>
class RowScratch {
 public:
  using Code = typename Arithmetic::Code;

  static size_t bytes(int64_t depth, int64_t codes) {
    return step_bytes(depth) + static_cast<size_t>(codes) * sizeof(Code);
  }

  RowScratch(std::byte* scratch, int64_t depth)
      : steps_(reinterpret_cast<int32_t*>(scratch)), codes_(reinterpret_cast<Code*>(scratch + step_bytes(depth))) {}

  int32_t* steps() const { return steps_; }
  Code* codes() const { return codes_; }

 private:
  static size_t step_bytes(int64_t depth) {
    const auto bytes = static_cast<size_t>(ceil_divide(depth, Arithmetic::depth_step)) * sizeof(int32_t);
    return (bytes + memory_alignment - 1) / memory_alignment * memory_alignment;
  }

  int32_t* steps_;
  Code* codes_;
};

/// Rows that are copied into scratch one by one, or lie in memory with their depth contiguous.
template <class Arithmetic>
struct StagedRows {
  using Code = typename Arithmetic::Code;

  /// Codes of a row.
  static constexpr int64_t length(int64_t depth) {
    return ceil_divide(depth, Arithmetic::depth_step) * Arithmetic::depth_step;
  }
  static constexpr int64_t stride(int64_t depth) { return (combines_rows<Arithmetic> ? 2 : 1) * length(depth); }

  static constexpr int64_t staged_bytes() {
    if constexpr (requires { Arithmetic::staged_bytes; }) return Arithmetic::staged_bytes;
    return block_bytes;
  }

  /// Rows of a block.
  static int64_t block_rows(int64_t depth) {
    const int64_t row_bytes = stride(depth) * static_cast<int64_t>(sizeof(Code));
    const int64_t tiles = std::min(staged_bytes() / row_bytes, max_block_rows) / Arithmetic::tile_rows;
    return std::max<int64_t>(tiles, 1) * Arithmetic::tile_rows;
  }

  static int64_t codes(int64_t depth) { return block_rows(depth) * stride(depth); }

  static void set_steps(int64_t depth, int32_t* steps) {
    for (int64_t k = 0; k < depth; k += Arithmetic::depth_step) *steps++ = static_cast<int32_t>(k);
  }

  /// Clears what the last step reads beyond the depth.
  static void clear_tail(Code* row, int64_t depth) { std::fill(row + depth, row + length(depth), Code{0}); }

  /// What remains to be done when `count` rows are staged at `rows`.
  static void combine(Code* rows, int64_t count, int64_t depth) {
    if constexpr (combines_rows<Arithmetic>) Arithmetic::combine_rows(rows, count, length(depth));
  }

  /// True where rows that lie in memory can be read there.
  static constexpr bool is_read_in_place(int64_t depth) {
    return std::is_same_v<Code, uint8_t> && depth % Arithmetic::depth_step == 0;
  }

  /// Points at `count` rows that lie `row_stride` apart, in place or staged at `scratch`.
  static void gather(const uint8_t* row, int64_t row_stride, int64_t count, int64_t depth, Code* scratch,
                     const Code** pointers) {
    if constexpr (std::is_same_v<Code, uint8_t>) {
      if (is_read_in_place(depth)) {
        return fill_sequence(pointers, count, row, row_stride);
      }
    }
    const int64_t staged_stride = stride(depth);
    fill_sequence<const Code*>(pointers, count, scratch, staged_stride);
    if (row_stride == depth && staged_stride == depth) return Arithmetic::stage(row, count * depth, scratch);
    for (int64_t r = 0; r < count; ++r, row += row_stride, scratch += staged_stride) {
      Arithmetic::stage(row, depth, scratch);
      clear_tail(scratch, depth);
    }
  }
};

/// The rows of a matrix in memory.
template <class Arithmetic>
class MatrixRows {
 public:
  using Code = typename Arithmetic::Code;

  MatrixRows(const GemmArguments& arguments, int64_t depth, std::byte* scratch)
      : arguments_(arguments), depth_(depth), scratch_(scratch, depth) {
    Staged::set_steps(depth, scratch_.steps());
  }

  static size_t scratch_bytes(int64_t depth) {
    return RowScratch<Arithmetic>::bytes(depth, Staged::is_read_in_place(depth) ? 0 : Staged::codes(depth));
  }

  int64_t count() const { return arguments_.rows; }
  const int32_t* steps() const { return scratch_.steps(); }
  int64_t block_end(int64_t first, int64_t limit) const { return std::min(limit, first + Staged::block_rows(depth_)); }

  void gather(int64_t first, int count, int64_t, const Code** pointers) const {
    Staged::gather(arguments_.input + first * arguments_.input_stride, arguments_.input_stride, count, depth_,
                   scratch_.codes(), pointers);
    Staged::combine(scratch_.codes(), count, depth_);
  }

  void output_offsets(int64_t first, int count, int64_t* offsets) const {
    fill_sequence(offsets, count, first * arguments_.output_stride, arguments_.output_stride);
  }

 private:
  using Staged = StagedRows<Arithmetic>;

  const GemmArguments& arguments_;
  int64_t depth_;
  RowScratch<Arithmetic> scratch_;
};

/// PackedGemm over an Arithmetic.
template <class Arithmetic>
class PackedPanelGemm final : public PackedGemm {
 public:
  explicit PackedPanelGemm(const GemmProblem& problem) : depth_(problem.depth), gemm_(problem, 1) {}

  int64_t work_items(int64_t rows) const override { return gemm_.work_items(rows); }
  size_t scratch_bytes(int64_t) const override { return MatrixRows<Arithmetic>::scratch_bytes(depth_); }
  size_t packed_bytes() const override { return gemm_.packed_bytes(); }

  void run(const GemmArguments& arguments, Range items, std::byte* scratch) const override {
    MatrixRows<Arithmetic> rows(arguments, depth_, scratch);
    gemm_.run(rows, arguments.output, items);
  }

 private:
  int64_t depth_;
  PanelGemm<Arithmetic> gemm_;
};

template <class Arithmetic>
bool suits_panel_gemm(const GemmProblem& problem) {
  if constexpr (requires { Arithmetic::suits(problem); }) return Arithmetic::suits(problem);
  return true;
}

template <class Arithmetic>
std::unique_ptr<PackedGemm> pack_panel_gemm(const GemmProblem& problem) {
  validate(problem);
  return std::make_unique<PackedPanelGemm<Arithmetic>>(problem);
}

}  // namespace qstep::kernels
