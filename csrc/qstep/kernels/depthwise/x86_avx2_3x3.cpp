// Taps go in pairs, because the instructions add two products: those of the first two rows one above the other, those of
// the third row side by side, from each second column on. Neighbouring outputs share the pairs: four outputs of stride 1
// need nine of them.
//
// A block is 32 bytes of codes: 32 channels of a pixel or, what is left of the channels, 16 channels of two pixels,
// `lane_outputs` outputs apart. Unpacking works on 128-bit lanes separately and takes the channels apart into halves
// (of a lane's 16 channels) and quarters; packing the codes puts them together in order.
#include "qstep/kernels/depthwise/x86_avx2_3x3.h"

#include <algorithm>
#include <array>
#include <span>
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
constexpr int lane_outputs = 4;     // neighbouring ones, summed at a time

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

/// What a call multiplies.
struct Rows {
  std::array<const uint8_t* const*, 3> pixels;  ///< of each row of the windows, from the first one's first column on
  int64_t first_channel;
  const void* weights;   ///< of the block
  const int32_t* bias;   ///< in the order of int32 lanes
  const float* factors;  ///< the same
  const Epilogue& epilogue;
  int64_t outputs;  ///< of the row that are left
  const int64_t* output_offsets;
};

}  // namespace
}  // namespace qstep::kernels::avx2

QSTEP_AVX2_BEGIN
namespace qstep::kernels::avx2 {
namespace {

/// Pairs of int16 into int32: any weights.
struct WidePairs {
  using Weight = int16_t;
  static constexpr int vectors = 2;  // of sums, for half a lane's channels

  QSTEP_INLINE static void start(__m256i (&sum)[vectors], const int32_t* bias) {
    sum[0] = load(bias);
    sum[1] = load(bias + 8);
  }
  QSTEP_INLINE static void prepare(__m256i bytes, __m256i (&pairs)[vectors]) {
    pairs[0] = _mm256_unpacklo_epi8(bytes, _mm256_setzero_si256());
    pairs[1] = _mm256_unpackhi_epi8(bytes, _mm256_setzero_si256());
  }
  QSTEP_INLINE static void add(__m256i& sum, __m256i pairs, __m256i weights) {
    add_int32(sum, _mm256_madd_epi16(pairs, weights));
  }
  QSTEP_INLINE static void finish(const __m256i (&sum)[vectors], const int32_t*, __m256i& left, __m256i& right) {
    left = sum[0];
    right = sum[1];
  }
};

/// Pairs of bytes into int16.
struct NarrowPairs {
  using Weight = int8_t;
  static constexpr int vectors = 1;

  QSTEP_INLINE static void start(__m256i (&sum)[vectors], const int32_t*) { sum[0] = _mm256_setzero_si256(); }
  QSTEP_INLINE static void prepare(__m256i bytes, __m256i (&pairs)[vectors]) { pairs[0] = bytes; }
  QSTEP_INLINE static void add(__m256i& sum, __m256i pairs, __m256i weights) {
    add_int16(sum, _mm256_maddubs_epi16(pairs, weights));
  }
  QSTEP_INLINE static void finish(const __m256i (&sum)[vectors], const int32_t* bias, __m256i& left, __m256i& right) {
    left = _mm256_add_epi32(load(bias), _mm256_srai_epi32(_mm256_unpacklo_epi16(sum[0], sum[0]), 16));
    right = _mm256_add_epi32(load(bias + 8), _mm256_srai_epi32(_mm256_unpackhi_epi16(sum[0], sum[0]), 16));
  }
};

/// 32 channels of a pixel.
struct Whole {
  template <int stride>
  QSTEP_INLINE static __m256i codes(const uint8_t* const* pixel, int64_t channel) {
    return load(*pixel + channel);
  }
  static constexpr int outputs = lane_outputs;
  QSTEP_INLINE static void store_output(uint8_t* output, const int64_t* offsets, int64_t, __m256i codes) {
    store(output + *offsets, codes);
  }
};

/// 16 channels of two pixels.
struct Split {
  template <int stride>
  QSTEP_INLINE static __m256i codes(const uint8_t* const* pixel, int64_t channel) {
    return _mm256_set_m128i(load_half(pixel[lane_outputs * stride] + channel), load_half(*pixel + channel));
  }
  static constexpr int outputs = 2 * lane_outputs;
  QSTEP_INLINE static void store_output(uint8_t* output, const int64_t* offsets, int64_t left, __m256i codes) {
    store_half(output + offsets[0], _mm256_castsi256_si128(codes));
    if (left > lane_outputs) store_half(output + offsets[lane_outputs], _mm256_extracti128_si256(codes, 1));
  }
};

/// Sums of half a lane's channels: of its quarters to left and right.
template <class Pairs, class Lanes, int stride, int half>
QSTEP_INLINE inline void sum_taps(const Rows& rows, __m256i (&left)[lane_outputs], __m256i (&right)[lane_outputs]) {
  using Weight = typename Pairs::Weight;
  constexpr int columns = (lane_outputs - 1) * stride + 3;
  constexpr int vector_weights = 32 / sizeof(Weight);
  const auto* weights = static_cast<const Weight*>(rows.weights) + half * Pairs::vectors * vector_weights;
  const int32_t* bias = rows.bias + half * tile_columns;
  __m256i sum[lane_outputs][Pairs::vectors];
  unroll<lane_outputs>([&](auto o) QSTEP_INLINE { Pairs::start(sum[o], bias); });
  const auto prepare = [&](const uint8_t* const* first, const uint8_t* const* second, __m256i(&pairs)[Pairs::vectors])
                           QSTEP_INLINE {
                             const __m256i a = Lanes::template codes<stride>(first, rows.first_channel);
                             const __m256i b = Lanes::template codes<stride>(second, rows.first_channel);
                             Pairs::prepare(half == 0 ? _mm256_unpacklo_epi8(a, b) : _mm256_unpackhi_epi8(a, b), pairs);
                           };
  const auto add = [&](auto output, auto pair, const __m256i(&pairs)[Pairs::vectors]) QSTEP_INLINE {
    unroll<Pairs::vectors>([&](auto v) QSTEP_INLINE {
      Pairs::add(sum[output][v], pairs[v], load(weights + (pair * 2 * Pairs::vectors + v) * vector_weights));
    });
  };
  unroll<columns>([&](auto x) QSTEP_INLINE {
    __m256i pairs[Pairs::vectors];
    prepare(rows.pixels[0] + x, rows.pixels[1] + x, pairs);
    unroll<lane_outputs>([&](auto o) QSTEP_INLINE {
      constexpr int tap = x - o * stride;
      if constexpr (0 <= tap && tap < 3) add(o, std::integral_constant<int, row_pair(tap)>{}, pairs);
    });
  });
  unroll<(columns + 1) / 2>([&](auto i) QSTEP_INLINE {
    __m256i pairs[Pairs::vectors];
    prepare(rows.pixels[2] + 2 * i, rows.pixels[2] + 2 * i + 1, pairs);
    unroll<lane_outputs>([&](auto o) QSTEP_INLINE {
      constexpr int tap = 2 * i - o * stride;
      if constexpr (-1 <= tap && tap < 3) add(o, std::integral_constant<int, column_pair(tap)>{}, pairs);
    });
  });
  unroll<lane_outputs>([&](auto o) QSTEP_INLINE { Pairs::finish(sum[o], bias, left[o], right[o]); });
}

/// Codes of up to Lanes::outputs outputs.
template <class Pairs, class Lanes, int stride>
QSTEP_NOINLINE void make_codes(const Rows& rows, uint8_t* output) {
  __m256i words[2][lane_outputs];
  unroll<2>([&](auto half) QSTEP_INLINE {
    __m256i left[lane_outputs];
    __m256i right[lane_outputs];
    sum_taps<Pairs, Lanes, stride, half>(rows, left, right);
    const ByFloatFactor rounding(rows.factors + half * tile_columns);
    unroll<lane_outputs>([&](auto o) QSTEP_INLINE { words[half][o] = rounding.words(left[o], right[o]); });
  });
  const CodeRange range(rows.epilogue);
  unroll<lane_outputs>([&](auto o) QSTEP_INLINE {
    if (o < rows.outputs) {
      Lanes::store_output(output, rows.output_offsets + o, rows.outputs - o, range.bytes(words[0][o], words[1][o]));
    }
  });
}

/// int32 sums: tiles[lanes][lane_outputs][tile_columns].
template <class Pairs, class Lanes, int stride>
QSTEP_NOINLINE void make_sums(const Rows& rows, int32_t* tiles) {
  unroll<2>([&](auto half) QSTEP_INLINE {
    __m256i left[lane_outputs];
    __m256i right[lane_outputs];
    sum_taps<Pairs, Lanes, stride, half>(rows, left, right);
    unroll<lane_outputs>([&](auto o) QSTEP_INLINE {
      int32_t* tile = tiles + o * tile_columns + half * (lane_channels / 2);
      store(tile, _mm256_permute2x128_si256(left[o], right[o], 0x20));
      store(tile + lane_outputs * tile_columns, _mm256_permute2x128_si256(left[o], right[o], 0x31));
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
    const int64_t channels = problem.in_channels;
    for (int64_t first = 0; first < channels; first += block_channels) {
      const int64_t rest = channels - first;
      const int width = rest <= lane_channels ? lane_channels : block_channels;
      // The last block ends where the channels end.
      if (rest >= width || channels >= width) {
        add_block(problem, std::min(first, channels - width), width);
      } else {
        add_block(problem, 0, lane_channels);
        add_block(problem, channels - lane_channels, lane_channels);
      }
    }
  }

  /// An item is a row of the output.
  int64_t work_items(const ImageLayout& output) const override { return output.batch * output.height; }

  size_t scratch_bytes(const ImageLayout& output) const override {
    return static_cast<size_t>(3 * columns(output)) * sizeof(const uint8_t*) +
           static_cast<size_t>(padded_width(output)) * sizeof(int64_t);
  }

  size_t packed_bytes() const override {
    return wide_weights_.size() * sizeof(int16_t) + narrow_weights_.size() + bias_.size() * sizeof(int32_t) +
           factors_.size() * sizeof(float) + zero_pixel_.size();
  }

  void run(const Conv2dArguments& arguments, Range items, std::byte* scratch) const override {
    const ImageLayout& output = arguments.output_layout;
    auto* pixels = reinterpret_cast<const uint8_t**>(scratch);
    auto* offsets = reinterpret_cast<int64_t*>(pixels + 3 * columns(output));
    for (int64_t item = items.begin; item < items.end; ++item) {
      const int64_t image = item / output.height;
      const int64_t row = item % output.height;
      for (int64_t x = 0; x < output.width; ++x) offsets[x] = output.offset(image, row, x);
      for (int i = 0; i < 3; ++i) {
        point_at_pixels(arguments, image, row * window_.stride[0] - window_.padding[0] + i,
                        {pixels + i * columns(output), static_cast<size_t>(columns(output))});
      }
      for (size_t b = 0; b < blocks_.size(); ++b) run_block(b, arguments.output, output, pixels, offsets);
    }
  }

 private:
  static int64_t padded_width(const ImageLayout& output) {
    constexpr int64_t most = Split::outputs;
    return (output.width + most - 1) / most * most;
  }

  /// Columns under the windows of a row of the output, and one that completes the last pair.
  int64_t columns(const ImageLayout& output) const {
    return std::max<int64_t>(padded_width(output) - 1, 0) * window_.stride[1] + 3 + 1;
  }

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

  void point_at_pixels(const Conv2dArguments& arguments, int64_t image, int64_t y,
                       std::span<const uint8_t*> pixels) const {
    const ImageLayout& input = arguments.input_layout;
    std::ranges::fill(pixels, zero_pixel_.data());
    if (y < 0 || y >= input.height) return;
    const int64_t left = window_.padding[1];
    const auto count = static_cast<int64_t>(pixels.size());
    const uint8_t* row = arguments.input + input.offset(image, y, 0);
    const int64_t end = std::min(left + input.width, count);
    for (int64_t x = left; x < end; ++x) pixels[static_cast<size_t>(x)] = row + (x - left) * input.pixel_stride;
  }

  void run_block(size_t number, const Output& output, const ImageLayout& layout, const uint8_t* const* pixels,
                 const int64_t* offsets) const {
    const Block& block = blocks_[number];
    const bool is_narrow = block.is_narrow;
    const void* weights = is_narrow ? static_cast<const void*>(narrow_weights_.data() + offsets_[number])
                                    : static_cast<const void*>(wide_weights_.data() + offsets_[number]);
    const auto run = [&]<class Pairs, class Lanes, int stride>() {
      for (int64_t x = 0; x < layout.width; x += Lanes::outputs) {
        Rows rows{.pixels = {},
                  .first_channel = block.first_channel,
                  .weights = weights,
                  .bias = bias_.data() + number * block_channels,
                  .factors = factors_.data() + (makes_codes() ? number * block_channels : 0),
                  .epilogue = epilogue_,
                  .outputs = std::min<int64_t>(layout.width - x, Lanes::outputs),
                  .output_offsets = offsets + x};
        for (int i = 0; i < 3; ++i) rows.pixels[static_cast<size_t>(i)] = pixels + i * columns(layout) + x * stride;
        if (makes_codes()) {
          make_codes<Pairs, Lanes, stride>(rows, output.codes + block.first_channel);
        } else {
          alignas(memory_alignment) int32_t tiles[2 * lane_outputs * tile_columns];
          make_sums<Pairs, Lanes, stride>(rows, tiles);
          for (int lane = 0; lane < 2; ++lane) {
            const int first = block.is_split ? lane * lane_outputs : 0;
            AccumulatorTile tile{.accumulators = tiles + lane * lane_outputs * tile_columns,
                                 .rows = static_cast<int>(std::clamp<int64_t>(rows.outputs - first, 0, lane_outputs)),
                                 .first_channel = block.first_channel + (block.is_split ? 0 : lane * lane_channels),
                                 .channels = lane_channels,
                                 .row_offsets = rows.output_offsets + first};
            epilogue_.store_avx2(tile, output);
          }
        }
      }
    };
    const auto with_stride = [&]<class Pairs, class Lanes>() {
      if (window_.stride[1] == 1) {
        run.template operator()<Pairs, Lanes, 1>();
      } else {
        run.template operator()<Pairs, Lanes, 2>();
      }
    };
    const auto with_lanes = [&]<class Pairs>() {
      if (block.is_split) {
        with_stride.template operator()<Pairs, Split>();
      } else {
        with_stride.template operator()<Pairs, Whole>();
      }
    };
    if (is_narrow) {
      with_lanes.template operator()<NarrowPairs>();
    } else {
      with_lanes.template operator()<WidePairs>();
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
