#pragma once
// Sums of the nine taps of a 3x3 depthwise convolution. Taps go in pairs, because the instructions add two products: those
// of two rows one above the other, those of the third row side by side, from each second column on. Pairs of codes are
// staged first, for all outputs that share them.
//
// A block is 32 bytes of codes: 32 channels of a pixel or, what is left of the channels, 16 channels of two pixels.
// Unpacking works on 128-bit lanes separately and takes the channels apart into halves (of a lane's 16 channels) and those
// into even and odd channels; packing the codes puts them together in order.
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "qstep/kernels/epilogue/x86_avx2.h"
#include "qstep/kernels/x86_avx2.h"

#if defined(__x86_64__)
namespace qstep::kernels::avx2::depthwise_3x3 {

constexpr int taps = 9;
constexpr int lane_channels = 16;
constexpr int block_channels = 32;  // in both lanes

/// The taps that a pair of codes is multiplied with; `none` is a weight of zero. First those of two rows, by column, then
/// those of the single row, for pairs whose first code is under tap -1, 0, 1 and 2.
constexpr int none = -1;
constexpr int pairs_of_taps = 7;
using PairTaps = std::array<std::array<int, 2>, pairs_of_taps>;
constexpr PairTaps first_rows_paired{{{0, 3}, {1, 4}, {2, 5}, {none, 6}, {6, 7}, {7, 8}, {8, none}}};
constexpr PairTaps last_rows_paired{{{3, 6}, {4, 7}, {5, 8}, {none, 0}, {0, 1}, {1, 2}, {2, none}}};
constexpr int row_pair(int tap) { return tap; }
constexpr int column_pair(int first_tap) { return first_tap + 4; }

/// Pixels of the padded image, by column.
using PixelRow = const uint8_t* const*;

/// Vectors of a block's pairs are 32 bytes each.
template <class Pairs>
constexpr int pair_bytes = 32 * Pairs::vectors;

/// What outputs of a row are made of.
struct Operands {
  const std::byte* rows;     ///< staged pairs of two rows, from the first output's first column on
  const std::byte* columns;  ///< of the single row
  const std::byte* weights;  ///< [pairs_of_taps][Pairs::vectors]
  const int32_t* bias;       ///< [2 halves][2 parities][2 lanes][4 channels]
  const float* factors;      ///< the same
};

/// Neighbouring outputs of a row.
struct Outputs {
  int64_t count;
  int64_t of_lane;        ///< those of the first lane, all where both lanes have channels of the same ones
  int64_t lane_distance;  ///< from the first lane's to the second's; 0 where they are the same
};

}  // namespace qstep::kernels::avx2::depthwise_3x3

QSTEP_AVX2_BEGIN
namespace qstep::kernels::avx2::depthwise_3x3 {

/// Pairs of int16 into int32, the even or the odd ones of half a lane's channels at a time: any weights.
struct WidePairs {
  using Weight = int16_t;
  static constexpr int vectors = 4;  // that hold a block's pairs
  static constexpr int lane_channel(int vector, int i) { return vector / 2 * 8 + vector % 2 + 2 * i; }

  QSTEP_INLINE static void stage(__m256i a, __m256i b, std::byte* pairs) {
    const __m256i low_bytes = _mm256_set1_epi16(0xFF);
    const __m256i halves[2] = {_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)};
    unroll<2>([&](auto half) QSTEP_INLINE {
      store(pairs + 64 * half, _mm256_and_si256(halves[half], low_bytes));
      store(pairs + 64 * half + 32, _mm256_srli_epi16(halves[half], 8));
    });
  }
  QSTEP_INLINE static __m256i first(__m256i pairs, __m256i weights, __m256i bias) {
    return _mm256_add_epi32(_mm256_madd_epi16(pairs, weights), bias);
  }
  QSTEP_INLINE static void add(__m256i& sum, __m256i pairs, __m256i weights) {
    add_int32(sum, _mm256_madd_epi16(pairs, weights));
  }
};

/// Pairs of bytes into int16, half of a lane's channels at a time.
struct NarrowPairs {
  using Weight = int8_t;
  static constexpr int vectors = 2;
  static constexpr int lane_channel(int vector, int i) { return vector * 8 + i; }

  QSTEP_INLINE static void stage(__m256i a, __m256i b, std::byte* pairs) {
    store(pairs, _mm256_unpacklo_epi8(a, b));
    store(pairs + 32, _mm256_unpackhi_epi8(a, b));
  }
  QSTEP_INLINE static __m256i first(__m256i pairs, __m256i weights, __m256i) {
    return _mm256_maddubs_epi16(pairs, weights);
  }
  QSTEP_INLINE static void add(__m256i& sum, __m256i pairs, __m256i weights) {
    add_int16(sum, _mm256_maddubs_epi16(pairs, weights));
  }
};

/// pairs[i][Pairs::vectors] of the pixels first[i * step] and second[i * step]: of 32 channels of each or, with a
/// lane_distance, of 16, and in the second lane those of the pixels so much further on.
template <class Pairs>
QSTEP_NOINLINE void stage_pairs(PixelRow first, PixelRow second, int step, int64_t count, int64_t channel,
                                int64_t lane_distance, std::byte* pairs) {
  const auto stage = [&](auto codes) QSTEP_INLINE {
    for (int64_t i = 0; i < count; ++i) {
      Pairs::stage(codes(first + i * step), codes(second + i * step), pairs + i * pair_bytes<Pairs>);
    }
  };
  if (lane_distance == 0) {
    stage([&](PixelRow pixel) QSTEP_INLINE { return load(*pixel + channel); });
  } else {
    stage([&](PixelRow pixel) QSTEP_INLINE {
      return _mm256_set_m128i(load_half(pixel[lane_distance] + channel), load_half(*pixel + channel));
    });
  }
}

/// Sums of the channels in one vector of pairs, for `outputs` outputs of each lane.
template <class Pairs, int stride, int vector, int outputs>
QSTEP_INLINE inline void sum_taps(const Operands& operands, __m256i bias, __m256i (&sum)[outputs]) {
  constexpr int columns = (outputs - 1) * stride + 3;
  const auto load_weights = [&](int pair) QSTEP_INLINE {
    __m256i result = load(operands.weights + pair * pair_bytes<Pairs> + vector * 32);
    keep_in_register(result);
    return result;
  };
  const auto load_pairs = [&](const std::byte* pairs, int number)
                              QSTEP_INLINE { return load(pairs + number * pair_bytes<Pairs> + vector * 32); };
  const __m256i of_rows[3] = {load_weights(row_pair(0)), load_weights(row_pair(1)), load_weights(row_pair(2))};
  unroll<columns>([&](auto x) QSTEP_INLINE {
    const __m256i codes = load_pairs(operands.rows, x);
    unroll<outputs>([&](auto o) QSTEP_INLINE {
      constexpr int tap = x - o * stride;
      if constexpr (tap == 0) {
        sum[o] = Pairs::first(codes, of_rows[0], bias);
      } else if constexpr (0 < tap && tap < 3) {
        Pairs::add(sum[o], codes, of_rows[tap]);
      }
    });
  });
  __m256i of_columns[4];
  unroll<4>([&](auto i) QSTEP_INLINE {
    if constexpr (stride == 1 || i % 2 == 1) of_columns[i] = load_weights(column_pair(i - 1));
  });
  unroll<(columns + 1) / 2>([&](auto i) QSTEP_INLINE {
    const __m256i codes = load_pairs(operands.columns, i);
    unroll<outputs>([&](auto o) QSTEP_INLINE {
      constexpr int tap = 2 * i - o * stride;
      if constexpr (-1 <= tap && tap < 3) Pairs::add(sum[o], codes, of_columns[tap + 1]);
    });
  });
}

/// use(o, parity, sums): the int32 sums of half a lane's channels in output o, of the even ones (0) and the odd ones (1).
template <class Pairs, int stride, int half, int outputs, class Use>
QSTEP_INLINE inline void sum_half(const Operands& operands, Use use) {
  const int32_t* bias = operands.bias + half * tile_columns;
  __m256i sum[outputs];
  if constexpr (std::is_same_v<Pairs, WidePairs>) {
    unroll<2>([&](auto parity) QSTEP_INLINE {
      sum_taps<Pairs, stride, 2 * half + parity>(operands, load(bias + 8 * parity), sum);
      unroll<outputs>([&](auto o) QSTEP_INLINE { use(o, parity, sum[o]); });
    });
  } else {
    sum_taps<Pairs, stride, half>(operands, _mm256_setzero_si256(), sum);
    unroll<outputs>([&](auto o) QSTEP_INLINE {
      const __m256i even = _mm256_srai_epi32(_mm256_slli_epi32(sum[o], 16), 16);
      use(o, std::integral_constant<int, 0>{}, _mm256_add_epi32(even, load(bias)));
      use(o, std::integral_constant<int, 1>{}, _mm256_add_epi32(_mm256_srai_epi32(sum[o], 16), load(bias + 8)));
    });
  }
}

/// As ByFloatFactor, for steps that fit int16 with the zero point: those of neighbouring channels share 32 bits. The zero
/// point is part of the sum, which leaves the parity of steps and so the rounding of ties as it is where it is even.
class ByFloatFactorToInt16 {
 public:
  /// bound: no |accumulator| is larger.
  static bool takes(float factor, int64_t bound, int32_t zero_point) {
    const double largest = static_cast<double>(bound) * std::fabs(factor);
    return largest < 32767 - 255 && (zero_point % 2 == 0 || !has_ties(factor, bound));
  }

  QSTEP_INLINE explicit ByFloatFactorToInt16(int32_t zero_point)
      : integers_(_mm256_set1_ps(0x1.8p23F + static_cast<float>(zero_point))) {}

  /// The low half of each 32 bits is the code, not clamped.
  QSTEP_INLINE __m256i steps(__m256i accumulators, const float* factors) const {
    return _mm256_castps_si256(_mm256_fmadd_ps(_mm256_cvtepi32_ps(accumulators), _mm256_loadu_ps(factors), integers_));
  }
  QSTEP_INLINE static __m256i words(__m256i even_steps, __m256i odd_steps) {
    return _mm256_blend_epi16(even_steps, _mm256_slli_epi32(odd_steps, 16), 0b10101010);
  }

 private:
  /// Whether an accumulator of up to the bound lies between two steps: it is a multiple of the least power of two that does.
  static bool has_ties(float factor, int64_t bound) {
    int64_t smallest = 1;
    for (double halves = 2.0 * factor; smallest <= bound && halves != std::floor(halves); halves *= 2) smallest *= 2;
    return smallest <= bound;
  }

  __m256 integers_;
};

/// Where codes go.
struct CodeRow {
  const Epilogue& epilogue;
  uint8_t* codes;  ///< of the block's first channel, in the first output
  int64_t pixel_stride;
};

/// Codes of the first `outputs` of each lane.
template <class Pairs, int stride, int outputs>
QSTEP_NOINLINE void make_codes(const Operands& operands, const Outputs& which, const CodeRow& to) {
  const ByFloatFactorToInt16 rounding(to.epilogue.zero_point());
  __m256i words[2][outputs];
  unroll<2>([&](auto half) QSTEP_INLINE {
    const float* factors = operands.factors + half * tile_columns;
    __m256i steps[2][outputs];
    sum_half<Pairs, stride, half, outputs>(operands, [&](auto o, auto parity, __m256i sums) QSTEP_INLINE {
      steps[parity][o] = rounding.steps(sums, factors + 8 * parity);
    });
    unroll<outputs>([&](auto o) QSTEP_INLINE { words[half][o] = rounding.words(steps[0][o], steps[1][o]); });
  });
  const CodeRange range(to.epilogue);
  unroll<outputs>([&](auto o) QSTEP_INLINE {
    if (o >= which.of_lane) return;
    uint8_t* output = to.codes + o * to.pixel_stride;
    const __m256i codes = range.bytes(words[0][o], words[1][o]);
    if (which.lane_distance == 0) return store(output, codes);
    store_half(output, _mm256_castsi256_si128(codes));
    if (o + which.lane_distance < which.count) {
      store_half(output + which.lane_distance * to.pixel_stride, _mm256_extracti128_si256(codes, 1));
    }
  });
}

/// int32 sums: tiles[lanes][outputs][tile_columns].
template <class Pairs, int stride, int outputs>
QSTEP_NOINLINE void make_sums(const Operands& operands, int32_t* tiles) {
  unroll<2>([&](auto half) QSTEP_INLINE {
    __m256i sums[2][outputs];
    sum_half<Pairs, stride, half, outputs>(
        operands, [&](auto o, auto parity, __m256i of_parity) QSTEP_INLINE { sums[parity][o] = of_parity; });
    unroll<outputs>([&](auto o) QSTEP_INLINE {
      const __m256i left = _mm256_unpacklo_epi32(sums[0][o], sums[1][o]);
      const __m256i right = _mm256_unpackhi_epi32(sums[0][o], sums[1][o]);
      int32_t* tile = tiles + o * tile_columns + half * (lane_channels / 2);
      store(tile, _mm256_permute2x128_si256(left, right, 0x20));
      store(tile + outputs * tile_columns, _mm256_permute2x128_si256(left, right, 0x31));
    });
  });
}

}  // namespace qstep::kernels::avx2::depthwise_3x3
QSTEP_AVX2_END
#endif
