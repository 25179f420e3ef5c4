// Pairs of codes (x86_avx2_3x3_pairs.h) are staged a block of channels at a time, for two rows of outputs that share some:
// with stride 1 the two rows in the middle, which are the last two of one window and the first two of the other, with
// stride 2 the single row between them.
#include "qstep/kernels/depthwise/x86_avx2_3x3.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "qstep/core/error.h"
#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/depthwise/band_depthwise.h"
#include "qstep/kernels/depthwise/padded_row.h"
#include "qstep/kernels/depthwise/x86_avx2.h"
#include "qstep/kernels/depthwise/x86_avx2_3x3_pairs.h"

#if defined(__x86_64__)
namespace qstep::kernels::avx2 {
namespace {

using namespace depthwise_3x3;

constexpr int most_outputs = 8;       // of a lane, summed at a time; even, as pairs of columns are
constexpr int64_t band_columns = 32;  // of the output: what a band reads and stages stays in the first cache
constexpr int64_t band_rows = 8;

struct Block {
  int64_t first_channel;
  bool is_split;     ///< 16 channels of two pixels
  bool is_narrow;    ///< the sums of all taps fit int16
  bool makes_codes;  ///< in registers
};

class Depthwise3x3 final : public PackedConv2d {
 public:
  explicit Depthwise3x3(const Conv2dProblem& problem)
      : window_(problem.window),
        zero_pixel_(static_cast<size_t>(problem.in_channels), static_cast<uint8_t>(problem.zero_code)),
        epilogue_(problem.requantization, problem.in_channels, accumulator_bound(as_gemm(problem))) {
    const int64_t bound = accumulator_bound(as_gemm(problem));
    for (const ChannelBlock& block : channel_blocks(problem.in_channels, std::array{block_channels, lane_channels})) {
      add_block(problem, block.first_channel, block.width, bound);
    }
  }

  /// An item is a row of the output.
  int64_t work_items(const ImageLayout& output) const override { return output.batch * output.height; }

  size_t scratch_bytes(const ImageLayout& output) const override {
    return row_pairs_bytes() + column_pairs_bytes() +
           static_cast<size_t>(input_rows(std::min(band_rows, output.height)) * columns(output)) *
               sizeof(const uint8_t*);
  }

  size_t packed_bytes() const override {
    return wide_weights_.size() * sizeof(int16_t) + narrow_weights_.size() + bias_.size() * sizeof(int32_t) +
           factors_.size() * sizeof(float) + zero_pixel_.size();
  }

  void run(const Conv2dArguments& arguments, Range items, std::byte* scratch) const override {
    const int64_t height = arguments.output_layout.height;
    const int64_t width = arguments.output_layout.width;
    const int64_t pointers = columns(arguments.output_layout);
    auto* pixels = reinterpret_cast<const uint8_t**>(scratch + row_pairs_bytes() + column_pairs_bytes());
    for (int64_t item = items.begin; item < items.end;) {
      const int64_t image = item / height;
      const int64_t row = item % height;
      const int64_t count = std::min({band_rows - row % 2, height - row, items.end - item});
      for (int64_t i = 0; i < input_rows(count); ++i) {
        point_at_pixels(arguments.input, arguments.input_layout, image,
                        row * window_.stride[0] - window_.padding[0] + i, window_.padding[1], zero_pixel_.data(),
                        pointers, pixels + i * pointers);
      }
      for (int64_t x = 0; x < width; x += band_columns) {
        const Band band{image,   row, x, count, std::min(band_columns, width - x), pixels + x * window_.stride[1],
                        pointers};
        for (size_t b = 0; b < blocks_.size(); ++b) run_block(b, band, arguments, scratch);
      }
      item += count;
    }
  }

 private:
  /// Neighbouring outputs of an image, computed for a block of channels before the next one.
  struct Band {
    int64_t image;
    int64_t first_row;
    int64_t first_column;
    int64_t rows;
    int64_t columns;
    PixelRow pixels;  ///< [input_rows(rows)][pixel_stride], from the first window's first pixel on
    int64_t pixel_stride;
  };

  /// Under the windows of so many rows of outputs.
  int64_t input_rows(int64_t rows) const { return (rows - 1) * window_.stride[0] + 3; }

  /// Columns under the windows of a row of the output, with room for the last pair and for the second lane's last.
  int64_t columns(const ImageLayout& output) const { return (output.width + 2) * window_.stride[1] + 3; }

  /// Of a band, with room for the last of the outputs that are summed at a time.
  size_t row_pairs_bytes() const {
    return static_cast<size_t>((band_columns + most_outputs) * window_.stride[1] + 3) * pair_bytes<WidePairs>;
  }
  size_t column_pairs_bytes() const { return row_pairs_bytes() / 2 + pair_bytes<WidePairs>; }

  void add_block(const Conv2dProblem& problem, int64_t first_channel, int width, int64_t bound) {
    Conv2dProblem part = problem;
    part.weights =
        problem.weights.subspan(static_cast<size_t>(first_channel) * taps, static_cast<size_t>(width) * taps);
    Block block{first_channel, width == lane_channels, DepthwiseMaddubs16::supports(part), has_factors()};
    const auto channel = [&](int lane, int c) {
      return first_channel + (block.is_split ? 0 : lane * lane_channels) + c;
    };
    const auto weight = [&](int64_t c, int tap) {
      return tap == none ? int16_t{0} : problem.weights[static_cast<size_t>(c * taps + tap)];
    };
    const auto pack = [&]<class Pairs>(Pairs, auto& packed) {
      constexpr int lane_pairs = 8 / sizeof(typename Pairs::Weight);
      offsets_.push_back(static_cast<int64_t>(packed.size()));
      for (const PairTaps& pair_taps : {first_rows_paired, last_rows_paired}) {
        for (const auto& pair : pair_taps) {
          for (int i = 0; i < Pairs::vectors * 2 * lane_pairs; ++i) {
            const int lane = i / lane_pairs % 2;
            const int64_t c = channel(lane, Pairs::lane_channel(i / lane_pairs / 2, i % lane_pairs));
            for (const int tap : pair) packed.push_back(static_cast<typename Pairs::Weight>(weight(c, tap)));
          }
        }
      }
    };
    if (block.is_narrow) {
      pack(NarrowPairs{}, narrow_weights_);
    } else {
      pack(WidePairs{}, wide_weights_);
    }
    const GemmProblem gemm = as_gemm(problem);
    for (int i = 0; i < block_channels; ++i) {
      const int64_t c = channel(i / 4 % 2, WidePairs::lane_channel(i / 8, i % 4));
      bias_.push_back(folded_bias(gemm, c));
      if (!has_factors()) continue;
      factors_.push_back(epilogue_.float_factors()[c]);
      block.makes_codes &= ByFloatFactorToInt16::takes(factors_.back(), bound, epilogue_.zero_point());
    }
    blocks_.push_back(block);
  }

  bool has_factors() const { return epilogue_.float_factors() != nullptr; }

  void run_block(size_t number, const Band& band, const Conv2dArguments& arguments, std::byte* scratch) const {
    const auto run = [&]<class Pairs>(Pairs, const auto& weights) {
      const auto* of_block = reinterpret_cast<const std::byte*>(weights.data() + offsets_[number]);
      if (window_.stride[1] == 1) {
        run_rows<Pairs, 1>(number, of_block, band, arguments, scratch);
      } else {
        run_rows<Pairs, 2>(number, of_block, band, arguments, scratch);
      }
    };
    blocks_[number].is_narrow ? run(NarrowPairs{}, narrow_weights_) : run(WidePairs{}, wide_weights_);
  }

  template <class Pairs, int stride>
  void run_rows(size_t number, const std::byte* weights, const Band& band, const Conv2dArguments& arguments,
                std::byte* scratch) const {
    const Block& block = blocks_[number];
    const ImageLayout& layout = arguments.output_layout;
    std::byte* row_pairs = scratch;
    std::byte* column_pairs = scratch + row_pairs_bytes();
    const int64_t of_lane = block.is_split ? (band.columns + 1) / 2 : band.columns;
    const Outputs outputs{band.columns, of_lane, block.is_split ? of_lane : 0};
    const int64_t columns = (of_lane - 1) * stride + 3;
    const auto stage = [&](PixelRow& staged, PixelRow first, PixelRow second, int step, std::byte* pairs) {
      if (std::exchange(staged, first) == first) return;
      stage_pairs<Pairs>(first, second, step, (columns + step - 1) / step, block.first_channel,
                         outputs.lane_distance * stride, pairs);
    };
    PixelRow staged_two = nullptr;
    PixelRow staged_single = nullptr;
    for (int64_t row = 0; row < band.rows; ++row) {
      // Such that an even row and the next one share what they can.
      const bool are_last_paired = ((band.first_row + row) % 2 == 0) == (window_.stride[0] == 1);
      const PixelRow pixels = band.pixels + row * window_.stride[0] * band.pixel_stride;
      const PixelRow two = are_last_paired ? pixels + band.pixel_stride : pixels;
      const PixelRow single = are_last_paired ? pixels : pixels + 2 * band.pixel_stride;
      stage(staged_two, two, two + band.pixel_stride, 1, row_pairs);
      stage(staged_single, single, single + 1, 2, column_pairs);
      const Operands operands{
          row_pairs, column_pairs, weights + (are_last_paired ? pairs_of_taps * pair_bytes<Pairs> : 0),
          bias_.data() + number * block_channels, has_factors() ? factors_.data() + number * block_channels : nullptr};
      run_outputs<Pairs, stride>(block, operands, outputs, arguments,
                                 layout.offset(band.image, band.first_row + row, band.first_column));
    }
  }

  /// offset: of the first output's pixel.
  template <class Pairs, int stride>
  void run_outputs(const Block& block, Operands operands, Outputs outputs, const Conv2dArguments& arguments,
                   int64_t offset) const {
    const int64_t pixel_stride = arguments.output_layout.pixel_stride;
    const auto run = [&]<int summed>() {
      if (block.makes_codes) {
        make_codes<Pairs, stride, summed>(
            operands, outputs, {epilogue_, arguments.output.codes + offset + block.first_channel, pixel_stride});
      } else {
        store_sums<Pairs, stride, summed>(block, operands, outputs, arguments, offset);
      }
      operands.rows += summed * stride * pair_bytes<Pairs>;
      operands.columns += summed * stride / 2 * pair_bytes<Pairs>;
      offset += summed * pixel_stride;
      outputs.count -= summed;
      outputs.of_lane -= summed;
    };
    while (outputs.of_lane >= most_outputs) run.template operator()<most_outputs>();
    if (outputs.of_lane > 6) {
      run.template operator()<7>();
    } else if (outputs.of_lane > 4) {
      run.template operator()<6>();
    } else if (outputs.of_lane > 0) {
      run.template operator()<4>();
    }
  }

  template <class Pairs, int stride, int summed>
  QSTEP_NOINLINE void store_sums(const Block& block, const Operands& operands, const Outputs& outputs,
                                 const Conv2dArguments& arguments, int64_t offset) const {
    alignas(memory_alignment) int32_t tiles[2 * summed * tile_columns];
    make_sums<Pairs, stride, summed>(operands, tiles);
    for (int lane = 0; lane < 2; ++lane) {
      const int64_t first = lane * outputs.lane_distance;
      const int64_t inside = std::min(outputs.of_lane, outputs.count - first);
      int64_t row_offsets[summed];
      fill_sequence(row_offsets, summed, offset + first * arguments.output_layout.pixel_stride,
                    arguments.output_layout.pixel_stride);
      const AccumulatorTile tile{.accumulators = tiles + lane * summed * tile_columns,
                                 .rows = static_cast<int>(std::clamp<int64_t>(inside, 0, summed)),
                                 .first_channel = block.first_channel + (block.is_split ? 0 : lane * lane_channels),
                                 .channels = lane_channels,
                                 .row_offsets = row_offsets};
      epilogue_.store_avx2(tile, arguments.output);
    }
  }

  core::Window window_;
  std::vector<Block> blocks_;
  std::vector<int64_t> offsets_;          // of each block's weights, among those of its width
  AlignedVector<int16_t> wide_weights_;   // [blocks][2][pairs_of_taps][WidePairs::vectors][2 lanes][4 channels][2]
  AlignedVector<int8_t> narrow_weights_;  // [blocks][2][pairs_of_taps][NarrowPairs::vectors][2 lanes][8 channels][2]
  AlignedVector<int32_t> bias_;           // folded; [blocks][WidePairs::vectors][2 lanes][4 channels]
  AlignedVector<float> factors_;          // the same, where the epilogue has them
  AlignedVector<uint8_t> zero_pixel_;
  Epilogue epilogue_;
};

}  // namespace

bool supports_depthwise_3x3(const Conv2dProblem& problem) {
  const core::Window& window = problem.window;
  return is_depthwise(problem) && problem.in_channels >= lane_channels && problem.requantization.combination.empty() &&
         window.kernel[0] == 3 && window.kernel[1] == 3 && window.dilation[0] == 1 && window.dilation[1] == 1 &&
         window.stride[1] <= 2;
}

std::unique_ptr<PackedConv2d> pack_depthwise_3x3(const Conv2dProblem& problem) {
  validate(problem);
  require(
      supports_depthwise_3x3(problem),
      "depthwise: needs a window of 3x3 with strides up to 2, no dilation, one sum per output and {} channels or more",
      lane_channels);
  return std::make_unique<Depthwise3x3>(problem);
}

}  // namespace qstep::kernels::avx2
#endif
