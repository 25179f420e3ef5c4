// Taps go in pairs, because the instructions add two products: those of the first two rows one above the other, those of
// the third row side by side, from each second column on. Neighbouring outputs share the pairs: seven outputs of stride 1
// need fourteen of them.
//
// A block is 32 bytes of codes: 32 channels of a pixel or, what is left of the channels, 16 channels of two pixels.
// Unpacking works on 128-bit lanes separately and takes the channels apart into halves (of a lane's 16 channels) and
// quarters; packing the codes puts them together in order.
#include "qstep/kernels/depthwise/x86_avx2_3x3.h"

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>
#include <vector>

#include "qstep/core/error.h"
#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/depthwise/band_depthwise.h"
#include "qstep/kernels/depthwise/x86_avx2.h"
#include "qstep/kernels/epilogue/x86_avx2.h"
#include "qstep/kernels/x86_avx2.h"

#if defined(__x86_64__)
namespace qstep::kernels::avx2 {
namespace {

constexpr int taps = 9;
constexpr int lane_channels = 16;
constexpr int block_channels = 32;  // in both lanes
constexpr int most_outputs = 7;     // neighbouring ones of a lane, summed at a time: images are often 7 * 2^n wide
constexpr int few_outputs = 4;      // at the end of a row

/// The taps that a pair of codes is multiplied with; `none` is a weight of zero. First those of two rows, by column, then
/// those of the third row, for pairs whose first code is under tap -1, 0, 1 and 2.
constexpr int none = -1;
constexpr std::array<std::array<int, 2>, 7> pair_taps{{{0, 3}, {1, 4}, {2, 5}, {none, 6}, {6, 7}, {7, 8}, {8, none}}};
constexpr int row_pair(int tap) { return tap; }
constexpr int column_pair(int first_tap) { return first_tap + 4; }

struct Block {
  int64_t first_channel;
  bool is_split;   ///< 16 channels of two pixels
  bool is_narrow;  ///< the sums of all taps fit int16
};

/// What a block reads for a row of outputs.
struct BlockRow {
  std::array<const uint8_t* const*, 3> pixels;  ///< of each row of the windows, from the first one's first column on
  int64_t first_channel;
  const void* weights;
  const int32_t* bias;
  const float* factors;
};

}  // namespace
}  // namespace qstep::kernels::avx2

QSTEP_AVX2_BEGIN
namespace qstep::kernels::avx2 {
namespace {

/// int32 sums of half a lane's channels.
struct Quarters {
  __m256i left;
  __m256i right;
};

/// Pairs of int16 into int32, a quarter of the channels at a time: any weights.
struct WidePairs {
  using Weight = int16_t;
  static constexpr int parts = 2;  // of half a lane's channels

  QSTEP_INLINE static __m256i start(const int32_t* bias) { return load(bias); }
  template <int part>
  QSTEP_INLINE static __m256i prepare(__m256i bytes) {
    const __m256i zero = _mm256_setzero_si256();
    return part == 0 ? _mm256_unpacklo_epi8(bytes, zero) : _mm256_unpackhi_epi8(bytes, zero);
  }
  QSTEP_INLINE static void add(__m256i& sum, __m256i pairs, __m256i weights) {
    add_int32(sum, _mm256_madd_epi16(pairs, weights));
  }
  QSTEP_INLINE static Quarters finish(const __m256i (&sum)[parts], const int32_t*) { return {sum[0], sum[1]}; }
};

/// Pairs of bytes into int16, half of the channels at a time.
struct NarrowPairs {
  using Weight = int8_t;
  static constexpr int parts = 1;

  QSTEP_INLINE static __m256i start(const int32_t*) { return _mm256_setzero_si256(); }
  template <int part>
  QSTEP_INLINE static __m256i prepare(__m256i bytes) {
    return bytes;
  }
  QSTEP_INLINE static void add(__m256i& sum, __m256i pairs, __m256i weights) {
    add_int16(sum, _mm256_maddubs_epi16(pairs, weights));
  }
  QSTEP_INLINE static Quarters finish(const __m256i (&sum)[parts], const int32_t* bias) {
    const __m256i left = _mm256_srai_epi32(_mm256_unpacklo_epi16(sum[0], sum[0]), 16);
    const __m256i right = _mm256_srai_epi32(_mm256_unpackhi_epi16(sum[0], sum[0]), 16);
    return {_mm256_add_epi32(left, load(bias)), _mm256_add_epi32(right, load(bias + 8))};
  }
};

/// 32 channels of a pixel.
struct Whole {
  static constexpr int pixels = 1;

  QSTEP_INLINE static __m256i codes(const uint8_t* const* pixel, int64_t channel, int) {
    return load(*pixel + channel);
  }
  QSTEP_INLINE static void store_codes(uint8_t* output, __m256i codes, int64_t, bool) { store(output, codes); }
};

/// 16 channels of two pixels.
struct Split {
  static constexpr int pixels = 2;

  QSTEP_INLINE static __m256i codes(const uint8_t* const* pixel, int64_t channel, int distance) {
    return _mm256_set_m128i(load_half(pixel[distance] + channel), load_half(*pixel + channel));
  }
  QSTEP_INLINE static void store_codes(uint8_t* output, __m256i codes, int64_t distance, bool is_second_inside) {
    store_half(output, _mm256_castsi256_si128(codes));
    if (is_second_inside) store_half(output + distance, _mm256_extracti128_si256(codes, 1));
  }
};

/// Sums of half a lane's channels, of its two quarters, for `outputs` outputs of each lane.
template <class Pairs, class Lanes, int stride, int half, int outputs>
QSTEP_INLINE inline void sum_taps(const BlockRow& row, Quarters (&sums)[outputs]) {
  using Weight = typename Pairs::Weight;
  constexpr int columns = (outputs - 1) * stride + 3;
  constexpr int vector_weights = 32 / sizeof(Weight);
  const auto* weights = static_cast<const Weight*>(row.weights) + half * Pairs::parts * vector_weights;
  const int32_t* bias = row.bias + half * tile_columns;
  __m256i sum[outputs][Pairs::parts];
  asm("" ::: "memory");  // gcc 12 would keep the codes of the other half on the stack, for more than to load them again
  unroll<Pairs::parts>([&](auto part) QSTEP_INLINE {
    unroll<outputs>([&](auto o) QSTEP_INLINE { sum[o][part] = Pairs::start(bias + 8 * part); });
    const auto pairs = [&](const uint8_t* const* first, const uint8_t* const* second) QSTEP_INLINE {
      const __m256i a = Lanes::codes(first, row.first_channel, outputs * stride);
      const __m256i b = Lanes::codes(second, row.first_channel, outputs * stride);
      return Pairs::template prepare<part>(half == 0 ? _mm256_unpacklo_epi8(a, b) : _mm256_unpackhi_epi8(a, b));
    };
    const auto load_weights = [&](int pair) QSTEP_INLINE {
      __m256i result = load(weights + (pair * 2 * Pairs::parts + part) * vector_weights);
      keep_in_register(result);
      return result;
    };
    const __m256i of_rows[3] = {load_weights(row_pair(0)), load_weights(row_pair(1)), load_weights(row_pair(2))};
    unroll<columns>([&](auto x) QSTEP_INLINE {
      const __m256i codes = pairs(row.pixels[0] + x, row.pixels[1] + x);
      unroll<outputs>([&](auto o) QSTEP_INLINE {
        constexpr int tap = x - o * stride;
        if constexpr (0 <= tap && tap < 3) Pairs::add(sum[o][part], codes, of_rows[tap]);
      });
    });
    __m256i of_columns[4];
    unroll<4>([&](auto i) QSTEP_INLINE {
      if constexpr (stride == 1 || i % 2 == 1) of_columns[i] = load_weights(column_pair(i - 1));
    });
    unroll<(columns + 1) / 2>([&](auto i) QSTEP_INLINE {
      const __m256i codes = pairs(row.pixels[2] + 2 * i, row.pixels[2] + 2 * i + 1);
      unroll<outputs>([&](auto o) QSTEP_INLINE {
        constexpr int tap = 2 * i - o * stride;
        if constexpr (-1 <= tap && tap < 3) Pairs::add(sum[o][part], codes, of_columns[tap + 1]);
      });
    });
  });
  unroll<outputs>([&](auto o) QSTEP_INLINE { sums[o] = Pairs::finish(sum[o], bias); });
}

/// Where codes go.
struct CodeRow {
  const Epilogue& epilogue;
  uint8_t* codes;  ///< of the block's first channel, in the first output
  int64_t pixel_stride;
};

/// Codes of a row's first outputs, up to Lanes::pixels * outputs of them.
template <class Pairs, class Lanes, int stride, int outputs>
QSTEP_NOINLINE void make_codes(const BlockRow& row, int64_t count, const CodeRow& to) {
  __m256i words[2][outputs];
  unroll<2>([&](auto half) QSTEP_INLINE {
    Quarters sums[outputs];
    sum_taps<Pairs, Lanes, stride, half>(row, sums);
    const ByFloatFactor rounding(row.factors + half * tile_columns, to.epilogue.zero_point());
    unroll<outputs>([&](auto o) QSTEP_INLINE { words[half][o] = rounding.words(sums[o].left, sums[o].right); });
  });
  const CodeRange range(to.epilogue);
  unroll<outputs>([&](auto o) QSTEP_INLINE {
    if (o < count) {
      Lanes::store_codes(to.codes + o * to.pixel_stride, range.bytes(words[0][o], words[1][o]),
                         outputs * to.pixel_stride, o + outputs < count);
    }
  });
}

/// int32 sums: tiles[lanes][outputs][tile_columns].
template <class Pairs, class Lanes, int stride, int outputs>
QSTEP_NOINLINE void make_sums(const BlockRow& row, int32_t* tiles) {
  unroll<2>([&](auto half) QSTEP_INLINE {
    Quarters sums[outputs];
    sum_taps<Pairs, Lanes, stride, half>(row, sums);
    unroll<outputs>([&](auto o) QSTEP_INLINE {
      int32_t* tile = tiles + o * tile_columns + half * (lane_channels / 2);
      store(tile, _mm256_permute2x128_si256(sums[o].left, sums[o].right, 0x20));
      store(tile + outputs * tile_columns, _mm256_permute2x128_si256(sums[o].left, sums[o].right, 0x31));
    });
  });
}

}  // namespace
}  // namespace qstep::kernels::avx2
QSTEP_AVX2_END

namespace qstep::kernels::avx2 {
namespace {

class Depthwise3x3 final : public PackedConv2d {
 public:
  explicit Depthwise3x3(const Conv2dProblem& problem)
      : window_(problem.window),
        zero_pixel_(static_cast<size_t>(problem.in_channels), static_cast<uint8_t>(problem.zero_code)),
        epilogue_(problem.requantization, problem.in_channels, accumulator_bound(as_gemm(problem))) {
    for (const ChannelBlock& block : channel_blocks(problem.in_channels, std::array{block_channels, lane_channels})) {
      add_block(problem, block.first_channel, block.width);
    }
  }

  /// An item is a row of the output.
  int64_t work_items(const ImageLayout& output) const override { return output.batch * output.height; }

  size_t scratch_bytes(const ImageLayout& output) const override {
    return static_cast<size_t>(3 * columns(output)) * sizeof(const uint8_t*);
  }

  size_t packed_bytes() const override {
    return wide_weights_.size() * sizeof(int16_t) + narrow_weights_.size() + bias_.size() * sizeof(int32_t) +
           factors_.size() * sizeof(float) + zero_pixel_.size();
  }

  void run(const Conv2dArguments& arguments, Range items, std::byte* scratch) const override {
    const ImageLayout& output = arguments.output_layout;
    auto* pixels = reinterpret_cast<const uint8_t**>(scratch);
    std::array<int64_t, 3> known{-1, -1, -1};  // rows, numbered through the padded images, that `pixels` holds
    const int64_t padded_height = output.height * window_.stride[0] + 3;
    for (int64_t item = items.begin; item < items.end; ++item) {
      const int64_t image = item / output.height;
      const int64_t row = item % output.height;
      std::array<const uint8_t* const*, 3> rows;
      for (int64_t i = 0; i < 3; ++i) {
        const int64_t padded_row = row * window_.stride[0] + i;
        const int64_t number = image * padded_height + padded_row;
        const int64_t place = number % 3;
        const uint8_t** of_row = pixels + place * columns(output);
        if (std::exchange(known[static_cast<size_t>(place)], number) != number) {
          point_at_pixels(arguments, image, padded_row - window_.padding[0], columns(output), of_row);
        }
        rows[static_cast<size_t>(i)] = of_row;
      }
      for (size_t b = 0; b < blocks_.size(); ++b) run_block(b, rows, arguments, image, row);
    }
  }

 private:
  /// Columns under the windows of a row of the output, with room for the last of the outputs that are summed at a time and
  /// for the last pair.
  int64_t columns(const ImageLayout& output) const { return (output.width + 2 * most_outputs) * window_.stride[1] + 3; }

  void add_block(const Conv2dProblem& problem, int64_t first_channel, int width) {
    Conv2dProblem part = problem;
    part.weights =
        problem.weights.subspan(static_cast<size_t>(first_channel) * taps, static_cast<size_t>(width) * taps);
    const Block block{first_channel, width == lane_channels, DepthwiseMaddubs16::supports(part)};
    const auto channel = [&](int lane, int c) {
      return first_channel + (block.is_split ? 0 : lane * lane_channels) + c;
    };
    const auto weight = [&](int64_t c, int tap) {
      return tap == none ? int16_t{0} : problem.weights[static_cast<size_t>(c * taps + tap)];
    };
    /// All pairs of weights of vectors that hold `count` channels in each lane.
    const auto pack = [&](auto& packed, int count) {
      using Weight = typename std::decay_t<decltype(packed)>::value_type;
      offsets_.push_back(static_cast<int64_t>(packed.size()));
      for (const auto& pair : pair_taps) {
        for (int c = 0; c < lane_channels; c += count) {
          for (int lane = 0; lane < 2; ++lane) {
            for (int i = 0; i < count; ++i) {
              for (const int tap : pair) packed.push_back(static_cast<Weight>(weight(channel(lane, c + i), tap)));
            }
          }
        }
      }
    };
    if (block.is_narrow) {
      pack(narrow_weights_, 8);
    } else {
      pack(wide_weights_, 4);
    }
    const GemmProblem gemm = as_gemm(problem);
    for (int c = 0; c < lane_channels; c += 4) {
      for (int lane = 0; lane < 2; ++lane) {
        for (int i = 0; i < 4; ++i) {
          const int64_t at = channel(lane, c + i);
          bias_.push_back(folded_bias(gemm, at));
          if (makes_codes()) factors_.push_back(epilogue_.float_factors()[at]);
        }
      }
    }
    blocks_.push_back(block);
  }

  bool makes_codes() const { return epilogue_.float_factors() != nullptr; }

  /// pixels[x]: column x of the padded image.
  void point_at_pixels(const Conv2dArguments& arguments, int64_t image, int64_t y, int64_t count,
                       const uint8_t** pixels) const {
    const ImageLayout& input = arguments.input_layout;
    const bool is_inside = 0 <= y && y < input.height;
    const int64_t begin = is_inside ? std::min<int64_t>(window_.padding[1], count) : count;
    const int64_t end = is_inside ? std::min(begin + input.width, count) : count;
    std::fill(pixels, pixels + begin, zero_pixel_.data());
    const uint8_t* pixel = arguments.input + (is_inside ? input.offset(image, y, 0) : 0);
    fill_sequence(pixels + begin, end - begin, pixel, input.pixel_stride);
    std::fill(pixels + end, pixels + count, zero_pixel_.data());
  }

  void run_block(size_t number, const std::array<const uint8_t* const*, 3>& rows, const Conv2dArguments& arguments,
                 int64_t image, int64_t row) const {
    const Block& block = blocks_[number];
    const auto first = static_cast<int64_t>(number) * block_channels;
    const auto run = [&]<class Pairs, class Lanes>() {
      const auto& weights = [&]() -> const auto& {
        if constexpr (std::is_same_v<Pairs, NarrowPairs>) {
          return narrow_weights_;
        } else {
          return wide_weights_;
        }
      }
      ();
      const BlockRow block_row{rows, block.first_channel, weights.data() + offsets_[number], bias_.data() + first,
                               makes_codes() ? factors_.data() + first : nullptr};
      if (window_.stride[1] == 1) {
        run_row<Pairs, Lanes, 1>(block_row, arguments, image, row);
      } else {
        run_row<Pairs, Lanes, 2>(block_row, arguments, image, row);
      }
    };
    if (block.is_narrow) {
      block.is_split ? run.template operator()<NarrowPairs, Split>() : run.template operator()<NarrowPairs, Whole>();
    } else {
      block.is_split ? run.template operator()<WidePairs, Split>() : run.template operator()<WidePairs, Whole>();
    }
  }

  template <class Pairs, class Lanes, int stride>
  void run_row(BlockRow block_row, const Conv2dArguments& arguments, int64_t image, int64_t row) const {
    const int64_t width = arguments.output_layout.width;
    int64_t x = 0;
    const auto run_outputs = [&]<int outputs>() {
      run_outputs_of_lane<Pairs, Lanes, stride, outputs>(block_row, arguments, image, row, x);
      x += Lanes::pixels * outputs;
      for (auto& pixels : block_row.pixels) pixels += Lanes::pixels * outputs * stride;
    };
    while (x + Lanes::pixels * few_outputs < width) run_outputs.template operator()<most_outputs>();
    if (x < width) run_outputs.template operator()<few_outputs>();
  }

  template <class Pairs, class Lanes, int stride, int outputs>
  void run_outputs_of_lane(const BlockRow& block_row, const Conv2dArguments& arguments, int64_t image, int64_t row,
                           int64_t x) const {
    const ImageLayout& layout = arguments.output_layout;
    const int64_t offset = layout.offset(image, row, x);
    const int64_t count = std::min<int64_t>(layout.width - x, Lanes::pixels * outputs);
    if (makes_codes()) {
      return make_codes<Pairs, Lanes, stride, outputs>(
          block_row, count,
          {epilogue_, arguments.output.codes + offset + block_row.first_channel, layout.pixel_stride});
    }
    alignas(memory_alignment) int32_t tiles[2 * outputs * tile_columns];
    make_sums<Pairs, Lanes, stride, outputs>(block_row, tiles);
    int64_t row_offsets[2 * outputs];
    for (int o = 0; o < 2 * outputs; ++o) row_offsets[o] = offset + o * layout.pixel_stride;
    for (int lane = 0; lane < 2; ++lane) {
      const int first = Lanes::pixels == 2 ? lane * outputs : 0;
      const AccumulatorTile tile{
          .accumulators = tiles + lane * outputs * tile_columns,
          .rows = static_cast<int>(std::clamp<int64_t>(count - first, 0, outputs)),
          .first_channel = block_row.first_channel + (Lanes::pixels == 1 ? lane * lane_channels : 0),
          .channels = lane_channels,
          .row_offsets = row_offsets + first};
      epilogue_.store_avx2(tile, arguments.output);
    }
  }

  core::Window window_;
  std::vector<Block> blocks_;
  std::vector<int64_t> offsets_;          // of each block's weights, among those of its width
  AlignedVector<int16_t> wide_weights_;   // [blocks][pairs][4 quarters][2 lanes][4 channels][2]
  AlignedVector<int8_t> narrow_weights_;  // [blocks][pairs][2 halves][2 lanes][8 channels][2]
  AlignedVector<int32_t> bias_;           // folded; [blocks][4 quarters][2 lanes][4 channels]
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
  require(supports_depthwise_3x3(problem), "depthwise: a window of 3x3 and at least {} channels are needed",
          lane_channels);
  return std::make_unique<Depthwise3x3>(problem);
}

}  // namespace qstep::kernels::avx2
#endif
