// Bands of the output, a block of channels (x86_avx512_3x3_quads.h) after the other.
#include "qstep/kernels/depthwise/x86_avx512_3x3.h"

#include <algorithm>
#include <array>
#include <vector>

#include "qstep/core/error.h"
#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/depthwise/band_depthwise.h"
#include "qstep/kernels/depthwise/padded_row.h"
#include "qstep/kernels/depthwise/x86_avx512_3x3_quads.h"
#include "qstep/kernels/weight_factor.h"

#if defined(__x86_64__)
namespace qstep::kernels::avx512vnni {
namespace {

using namespace depthwise_3x3;

constexpr int block_channels = 64;
// Of the output: such that a block of channels of a band stays in the first cache.
constexpr int64_t band_columns = 64;
constexpr int64_t band_rows = 8;

class Depthwise3x3 final : public PackedConv2d {
 public:
  explicit Depthwise3x3(const Conv2dProblem& problem)
      : window_(problem.window),
        blocks_(channel_blocks(problem.in_channels, std::array{block_channels, block_channels / 2, lane_channels})),
        zero_pixel_(static_cast<size_t>(problem.in_channels), static_cast<uint8_t>(problem.zero_code)),
        epilogue_(problem.requantization, problem.in_channels, accumulator_bound(as_gemm(problem))) {
    for (const ChannelBlock& block : blocks_) add_block(problem, block);
  }

  /// An item is a row of the output or, with stride 1, the two that are summed together.
  int64_t work_items(const ImageLayout& output) const override { return output.batch * items(output); }

  size_t scratch_bytes(const ImageLayout& output) const override {
    return sums_bytes(output) + static_cast<size_t>(input_rows(band_rows) * pointers(output)) * sizeof(const uint8_t*);
  }

  size_t packed_bytes() const override {
    return weights_.size() + bias_.size() * sizeof(int32_t) + factors_.size() * sizeof(float) + zero_pixel_.size();
  }

  void run(const Conv2dArguments& arguments, Range range, std::byte* scratch) const override {
    const ImageLayout& output = arguments.output_layout;
    auto* pixels = reinterpret_cast<const uint8_t**>(scratch + sums_bytes(output));
    for (int64_t item = range.begin; item < range.end;) {
      const int64_t image = item / items(output);
      const int64_t first = item % items(output);
      const int64_t end = std::min({first + band_rows / item_rows(), items(output), first + range.end - item});
      const int64_t row = first * item_rows();
      const int64_t rows = std::min(end * item_rows(), output.height) - row;
      for (int64_t i = 0; i < input_rows(rows); ++i) {
        point_at_pixels(arguments.input, arguments.input_layout, image, row * stride() - window_.padding[0] + i,
                        window_.padding[1], zero_pixel_.data(), pointers(output), pixels + i * pointers(output));
      }
      for (int64_t x = 0; x < output.width; x += band_columns) {
        const Band band{rows, std::min(band_columns, output.width - x), pixels + x * stride(), pointers(output),
                        output.offset(image, row, x)};
        for (size_t block = 0; block < blocks_.size(); ++block) run_block(block, band, arguments, scratch);
      }
      item += end - first;
    }
  }

 private:
  /// Neighbouring outputs of an image.
  struct Band {
    int64_t rows;
    int64_t columns;
    PixelRow pixels;   ///< from the first window's first pixel on
    int64_t pointers;  ///< from one row of pixels to the next
    int64_t offset;    ///< of the first output's pixel
  };

  int stride() const { return window_.stride[0]; }
  int64_t item_rows() const { return stride() == 1 ? 2 : 1; }
  int64_t items(const ImageLayout& output) const { return ceil_divide(output.height, item_rows()); }

  /// Under the windows of so many rows of outputs, with room for the last row of quads.
  int64_t input_rows(int64_t rows) const { return (rows - 1) * stride() + 4; }

  /// Columns under the windows of a row of the output, with room for the last pair and for the last part's last output.
  int64_t pointers(const ImageLayout& output) const { return (output.width + lanes) * stride() + 4; }

  /// Of the sums of a band or, where codes are made in registers, of half of its codes as words.
  size_t sums_bytes(const ImageLayout& output) const {
    const int64_t outputs = std::min(band_rows, output.height) * (std::min(band_columns, output.width) + lanes);
    return static_cast<size_t>((has_factors() ? 1 : lanes) * outputs) * block_bytes;
  }

  void add_block(const Conv2dProblem& problem, const ChannelBlock& block) {
    const int tiles = block.width / lane_channels;
    const auto channel = [&](int vector, int i) {
      return block.first_channel + i / 4 % tiles * lane_channels + vector * 4 + i % 4;
    };
    const auto pack = [&](const auto& quads) {
      for (const QuadTaps& quad : quads) {
        for (int v = 0; v < vectors; ++v) {
          for (int i = 0; i < tile_columns; ++i) {
            for (const int tap : quad) {
              weights_.push_back(
                  tap == none ? int8_t{0}
                              : static_cast<int8_t>(problem.weights[static_cast<size_t>(channel(v, i) * taps + tap)]));
            }
          }
        }
      }
    };
    stride() == 1 ? pack(quads_of_stride_1) : pack(quads_of_stride_2);
    const GemmProblem gemm = as_gemm(problem);
    for (int v = 0; v < vectors; ++v) {
      for (int i = 0; i < tile_columns; ++i) {
        bias_.push_back(folded_bias(gemm, channel(v, i)));
        if (has_factors()) factors_.push_back(epilogue_.float_factors()[channel(v, i)]);
      }
    }
  }

  bool has_factors() const { return epilogue_.float_factors() != nullptr; }

  void run_block(size_t number, const Band& band, const Conv2dArguments& arguments, std::byte* scratch) const {
    switch (blocks_[number].width) {
      case block_channels:
        return run_parts<1>(number, band, arguments, scratch);
      case block_channels / 2:
        return run_parts<2>(number, band, arguments, scratch);
      default:
        return run_parts<4>(number, band, arguments, scratch);
    }
  }

  template <int parts>
  void run_parts(size_t number, const Band& band, const Conv2dArguments& arguments, std::byte* scratch) const {
    const ImageLayout& layout = arguments.output_layout;
    const ChannelBlock& block = blocks_[number];
    const size_t quads = stride() == 1 ? quads_of_stride_1.size() : quads_of_stride_2.size();
    const Outputs outputs{.rows = band.rows,
                          .columns = band.columns,
                          .part_columns = ceil_divide(band.columns, parts),
                          .pixels = band.pixels,
                          .pointers = band.pointers,
                          .channel = block.first_channel,
                          .weights = weights_.data() + number * quads * vectors * block_bytes,
                          .bias = bias_.data() + number * block_channels};
    auto* scratch_sums = reinterpret_cast<int32_t*>(scratch);
    if (has_factors()) {
      const CodeTarget target{epilogue_, factors_.data() + number * block_channels,
                              arguments.output.codes + band.offset + block.first_channel, layout, scratch_sums};
      return multiply<StoreCodes<parts>>(outputs, target);
    }
    multiply<StoreSums<parts>>(outputs, scratch_sums);
    store_sums(band, outputs, block.width / lane_channels, arguments, scratch_sums);
  }

  template <class Use>
  void multiply(const Outputs& outputs, const typename Use::Target& target) const {
    stride() == 1 ? multiply_stride_1<Use>(outputs, target) : multiply_stride_2<Use>(outputs, target);
  }

  void store_sums(const Band& band, const Outputs& outputs, int tiles, const Conv2dArguments& arguments,
                  const int32_t* sums) const {
    const ImageLayout& layout = arguments.output_layout;
    for (int lane = 0; lane < lanes; ++lane) {
      const int64_t first = lane / tiles * outputs.part_columns;
      for (int64_t row = 0; row < outputs.rows; ++row) {
        int64_t offsets[band_columns];
        fill_sequence(offsets, outputs.part_columns,
                      band.offset + row * layout.row_stride + first * layout.pixel_stride, layout.pixel_stride);
        const AccumulatorTile tile{
            .accumulators = sums + (lane * outputs.rows + row) * outputs.part_columns * lane_channels,
            .rows = static_cast<int>(std::clamp<int64_t>(outputs.columns - first, 0, outputs.part_columns)),
            .first_channel = outputs.channel + lane % tiles * lane_channels,
            .channels = lane_channels,
            .row_offsets = offsets};
        epilogue_.store_avx512(tile, arguments.output);
      }
    }
  }

  core::Window window_;
  std::vector<ChannelBlock> blocks_;
  AlignedVector<int8_t> weights_;  // [blocks][quads][vectors][lanes][4 channels][4]
  AlignedVector<int32_t> bias_;    // folded; [blocks][vectors][lanes][4 channels]
  AlignedVector<float> factors_;   // the same, where the epilogue has them
  AlignedVector<uint8_t> zero_pixel_;
  Epilogue epilogue_;
};

}  // namespace

bool supports_depthwise_3x3(const Conv2dProblem& problem) {
  const core::Window& window = problem.window;
  return is_depthwise(problem) && problem.in_channels >= lane_channels && problem.requantization.combination.empty() &&
         fit<int8_t>(problem.weights) && window.kernel[0] == 3 && window.kernel[1] == 3 && window.dilation[0] == 1 &&
         window.dilation[1] == 1 && window.stride[0] == window.stride[1] && window.stride[0] <= 2;
}

std::unique_ptr<PackedConv2d> pack_depthwise_3x3(const Conv2dProblem& problem) {
  validate(problem);
  require(
      supports_depthwise_3x3(problem),
      "depthwise: needs a window of 3x3 with strides up to 2, no dilation, one sum per output and {} channels or more",
      lane_channels);
  return std::make_unique<Depthwise3x3>(problem);
}

}  // namespace qstep::kernels::avx512vnni
#endif
