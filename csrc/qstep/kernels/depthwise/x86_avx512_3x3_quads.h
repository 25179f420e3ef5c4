#pragma once
// Sums of the nine taps of a 3x3 depthwise convolution, four products to a lane of 32 bits. Quads of codes are put together
// in registers while a window moves along a row, for two rows of outputs with stride 1, which share quads of four rows, and
// for one row with stride 2. A sum that still lacks columns stays in its register.
//
// A block is 64 bytes of codes: 64 channels of a pixel or, what is left of the channels, 32 channels of two or 16 channels
// of four pixels. Unpacking works on 128-bit lanes separately: vector v holds channels 4v to 4v + 3 of every lane's 16, and
// packing the codes puts them together in order.
#include <array>
#include <cstddef>
#include <cstdint>

#include "qstep/kernels/epilogue/x86_avx512.h"
#include "qstep/kernels/x86_avx512.h"

#if defined(__x86_64__)
namespace qstep::kernels::avx512vnni::depthwise_3x3 {

constexpr int taps = 9;
constexpr int lanes = 4;
constexpr int lane_channels = 16;
constexpr int vectors = 4;  // of the sums of a block
constexpr int block_bytes = 64;

/// The taps whose codes make a quad; `none` is a weight of zero. With stride 1 a quad is four rows of a column, [2 rows of
/// outputs][3 columns]. With stride 2 it is two rows of two columns for the first output and the first of these columns for
/// the output before it, or four columns of the last row.
constexpr int none = -1;
using QuadTaps = std::array<int, 4>;
constexpr std::array<QuadTaps, 6> quads_of_stride_1{
    {{0, 3, 6, none}, {1, 4, 7, none}, {2, 5, 8, none}, {none, 0, 3, 6}, {none, 1, 4, 7}, {none, 2, 5, 8}}};
constexpr std::array<QuadTaps, 3> quads_of_stride_2{{{0, 3, 1, 4}, {2, 5, none, none}, {6, 7, 8, none}}};

/// Pixels of a row of the padded image, by column.
using PixelRow = const uint8_t* const*;

/// Neighbouring outputs of an image, and what those of a block of channels are made of.
struct Outputs {
  int64_t rows;
  int64_t columns;
  int64_t part_columns;   ///< those of the first part of the lanes, all where there is one part
  PixelRow pixels;        ///< from the first output's first column on
  int64_t pointers;       ///< from one row of pixels to the next
  int64_t channel;        ///< the block's first one
  const int8_t* weights;  ///< [quads][vectors][lanes][4 channels][4]
  const int32_t* bias;    ///< [vectors][lanes][4 channels]
};

}  // namespace qstep::kernels::avx512vnni::depthwise_3x3

QSTEP_AVX512VNNI_BEGIN
namespace qstep::kernels::avx512vnni::depthwise_3x3 {

constexpr auto all_of_half = static_cast<__mmask8>(all_lanes);

/// A block of a pixel's codes, or of those of `parts` pixels.
template <int parts>
QSTEP_INLINE inline __m512i load_codes(PixelRow pixel, int64_t part_pixels, int64_t channel) {
  const auto part = [&](int i) QSTEP_INLINE { return pixel[i * part_pixels] + channel; };
  if constexpr (parts == 1) {
    return load(part(0));
  } else if constexpr (parts == 2) {
    return _mm512_maskz_inserti64x4(all_of_half, _mm512_castsi256_si512(avx2::load(part(0))), avx2::load(part(1)), 1);
  } else {
    __m512i codes = _mm512_castsi128_si512(avx2::load_half(part(0)));
    unroll<3>([&](auto i) QSTEP_INLINE {
      codes = _mm512_maskz_inserti32x4(all_lanes, codes, avx2::load_half(part(i + 1)), i + 1);
    });
    return codes;
  }
}

template <int half>
QSTEP_INLINE inline __m512i unpack_8(__m512i a, __m512i b) {
  return half == 0 ? _mm512_unpacklo_epi8(a, b) : _mm512_unpackhi_epi8(a, b);
}
template <int half>
QSTEP_INLINE inline __m512i unpack_16(__m512i a, __m512i b) {
  return half == 0 ? _mm512_unpacklo_epi16(a, b) : _mm512_unpackhi_epi16(a, b);
}

// use.take<half>(row, column, sums) gets vectors 2 * half and 2 * half + 1 of the sums of neighbouring rows in one column,
// the first half of an output before the second.

/// Two rows of outputs at a time, and one half of the channels after the other, such that weights and sums have registers.
template <int half, class Use>
QSTEP_INLINE inline void multiply_half_of_stride_1(const Outputs& outputs, const Use& use) {
  __m512i weights[2][3][2];
  unroll<2>([&](auto row) QSTEP_INLINE {
    unroll<3>([&](auto tap) QSTEP_INLINE {
      unroll<2>([&](auto v) QSTEP_INLINE {
        weights[row][tap][v] = load(outputs.weights + ((row * 3 + tap) * vectors + 2 * half + v) * block_bytes);
      });
    });
  });
  const int32_t* bias = outputs.bias + 2 * half * tile_columns;
  const int64_t columns = outputs.part_columns;
  const int64_t channel = outputs.channel;
  const auto multiply_rows = [&]<int rows>(int64_t row) QSTEP_INLINE {
    PixelRow pixels[4];
    unroll<4>([&](auto r) QSTEP_INLINE { pixels[r] = outputs.pixels + (row + r) * outputs.pointers; });
    __m512i sums[3][rows][2];
    // Column x is under tap 0 of output x, whose sums are sums[x % 3], and under tap i of output x - i, where there is one.
    const auto add_column = [&]<int x_modulo_3, int last_tap>(int64_t x) QSTEP_INLINE {
      __m512i codes[4];
      unroll<4>([&](auto r) QSTEP_INLINE { codes[r] = load_codes<Use::parts>(pixels[r] + x, columns, channel); });
      const __m512i upper = unpack_8<half>(codes[0], codes[1]);
      const __m512i lower = unpack_8<half>(codes[2], codes[3]);
      unroll<2>([&](auto v) QSTEP_INLINE {
        const __m512i quads = unpack_16<v>(upper, lower);
        __m512i first = load(bias + v * tile_columns);
        keep_in_register(first);
        unroll<rows>([&](auto b) QSTEP_INLINE {
          unroll<last_tap + 1>([&](auto tap) QSTEP_INLINE {
            __m512i& sum = sums[(x_modulo_3 + 3 - tap) % 3][b][v];
            sum = _mm512_dpbusd_epi32(tap == 0 ? first : sum, quads, weights[b][tap][v]);
          });
        });
      });
    };
    const auto finish = [&]<int x_modulo_3>(int64_t x) QSTEP_INLINE {
      add_column.template operator()<(x_modulo_3 + 2) % 3, 2>(x + 2);
      use.template take<half>(row, x, sums[x_modulo_3]);
    };
    add_column.template operator()<0, 0>(0);
    add_column.template operator()<1, 1>(1);
    for (int64_t x = 0;;) {
      finish.template operator()<0>(x);
      if (++x == columns) return;
      finish.template operator()<1>(x);
      if (++x == columns) return;
      finish.template operator()<2>(x);
      if (++x == columns) return;
    }
  };
  int64_t row = 0;
  for (; row + 2 <= outputs.rows; row += 2) multiply_rows.template operator()<2>(row);
  if (row < outputs.rows) multiply_rows.template operator()<1>(row);
}

template <class Use>
QSTEP_NOINLINE void multiply_stride_1(const Outputs outputs, const typename Use::Target& target) {
  const Use use(outputs, target);
  multiply_half_of_stride_1<0>(outputs, use);
  multiply_half_of_stride_1<1>(outputs, use);
}

template <class Use>
QSTEP_NOINLINE void multiply_stride_2(const Outputs outputs, const typename Use::Target& target) {
  const Use use(outputs, target);
  __m512i weights[3][vectors];
  unroll<3>([&](auto quad) QSTEP_INLINE {
    unroll<vectors>(
        [&](auto v) QSTEP_INLINE { weights[quad][v] = load(outputs.weights + (quad * vectors + v) * block_bytes); });
  });
  const int64_t columns = outputs.part_columns;
  const int64_t channel = outputs.channel;
  for (int64_t row = 0; row < outputs.rows; ++row) {
    PixelRow pixels[3];
    unroll<3>([&](auto r) QSTEP_INLINE { pixels[r] = outputs.pixels + (2 * row + r) * outputs.pointers; });
    __m512i sums[2][1][2];  // [halves]
    __m512i last_row[2];
    // Columns 2x and 2x + 1 begin output x and end the one before it.
    const auto add_columns = [&]<bool is_first>(int64_t x) QSTEP_INLINE {
      __m512i codes[3][2];
      unroll<3>([&](auto r) QSTEP_INLINE {
        unroll<2>([&](auto i) QSTEP_INLINE {
          codes[r][i] = load_codes<Use::parts>(pixels[r] + 2 * x + i, 2 * columns, channel);
        });
      });
      unroll<2>([&](auto half) QSTEP_INLINE {
        const __m512i left = unpack_8<half>(codes[0][0], codes[1][0]);
        const __m512i right = unpack_8<half>(codes[0][1], codes[1][1]);
        const __m512i last = unpack_8<half>(codes[2][0], codes[2][1]);
        __m512i begun[1][2];
        unroll<2>([&](auto v) QSTEP_INLINE {
          constexpr int vector = 2 * half + v;
          const __m512i quads = unpack_16<v>(left, right);
          begun[0][v] = _mm512_dpbusd_epi32(load(outputs.bias + vector * tile_columns), quads, weights[0][vector]);
          if constexpr (!is_first) {
            __m512i& sum = sums[half][0][v];
            sum = _mm512_dpbusd_epi32(sum, quads, weights[1][vector]);
            sum = _mm512_dpbusd_epi32(sum, unpack_16<v>(last_row[half], last), weights[2][vector]);
          }
        });
        if constexpr (!is_first) use.template take<half>(row, x - 1, sums[half]);
        last_row[half] = last;
        unroll<2>([&](auto v) QSTEP_INLINE { sums[half][0][v] = begun[0][v]; });
      });
    };
    add_columns.template operator()<true>(0);
    for (int64_t x = 1; x <= columns; ++x) add_columns.template operator()<false>(x);
  }
}

/// Where codes go.
struct CodeTarget {
  const Epilogue& epilogue;
  const float* factors;  ///< [vectors][lanes][4 channels]
  uint8_t* codes;        ///< of the block's first channel, in the first output
  const ImageLayout& layout;
  int32_t* words;  ///< scratch: [rows][part_columns][lane_channels], codes of the first half
};

/// Makes codes in registers.
template <int pixels>
class StoreCodes {
 public:
  using Target = CodeTarget;
  static constexpr int parts = pixels;

  QSTEP_INLINE StoreCodes(const Outputs& outputs, const CodeTarget& target)
      : integers_(_mm512_set1_ps(0x1.8p23F)),
        code_0_(_mm512_sub_epi32(_mm512_castps_si512(integers_), _mm512_set1_epi32(target.epilogue.zero_point()))),
        range_(target.epilogue),
        factors_(target.factors),
        words_(target.words),
        codes_(target.codes),
        row_stride_(target.layout.row_stride),
        pixel_stride_(target.layout.pixel_stride),
        columns_(outputs.columns),
        part_columns_(outputs.part_columns) {}

  template <int half, int rows>
  QSTEP_INLINE void take(int64_t row, int64_t x, const __m512i (&sums)[rows][2]) const {
    __m512 factor[2];
    unroll<2>([&](auto v) QSTEP_INLINE {
      factor[v] = _mm512_loadu_ps(factors_ + (2 * half + v) * tile_columns);
      keep_in_register(factor[v]);
    });
    __m512i words[rows];
    unroll<rows>([&](auto b) QSTEP_INLINE {
      words[b] = _mm512_packs_epi32(steps(sums[b][0], factor[0]), steps(sums[b][1], factor[1]));
    });
    unroll<rows>([&](auto b) QSTEP_INLINE {
      int32_t* to = words_ + ((row + b) * part_columns_ + x) * lane_channels;
      if constexpr (half == 0) {
        store(to, words[b]);
      } else {
        store_pixels(row + b, x, range_.bytes(load(to), words[b]));
      }
    });
  }

 private:
  QSTEP_INLINE __m512i steps(__m512i sums, __m512 factor) const {
    const __m512 sum = _mm512_fmadd_ps(_mm512_maskz_cvtepi32_ps(all_lanes, sums), factor, integers_);
    return _mm512_sub_epi32(_mm512_castps_si512(sum), code_0_);
  }

  QSTEP_INLINE void store_pixels(int64_t row, int64_t x, __m512i codes) const {
    uint8_t* to = codes_ + row * row_stride_ + x * pixel_stride_;
    if constexpr (parts == 1) {
      store(to, codes);
    } else {
      unroll<parts>([&](auto i) QSTEP_INLINE {
        if (i > 0 && x + i * part_columns_ >= columns_) return;
        uint8_t* to_part = to + i * part_columns_ * pixel_stride_;
        if constexpr (parts == 2) {
          avx2::store(to_part, _mm512_maskz_extracti64x4_epi64(all_of_half, codes, i));
        } else {
          avx2::store_half(to_part, _mm512_maskz_extracti32x4_epi32(all_of_half, codes, i));
        }
      });
    }
  }

  __m512 integers_;
  __m512i code_0_;  // the bits that stand for code 0
  CodeRange range_;
  const float* factors_;
  int32_t* words_;
  uint8_t* codes_;
  int64_t row_stride_;
  int64_t pixel_stride_;
  int64_t columns_;
  int64_t part_columns_;
};

/// Stores int32 sums: [lanes][rows][part_columns][lane_channels].
template <int pixels>
class StoreSums {
 public:
  using Target = int32_t*;
  static constexpr int parts = pixels;

  QSTEP_INLINE StoreSums(const Outputs& outputs, int32_t* sums)
      : sums_(sums), rows_(outputs.rows), part_columns_(outputs.part_columns) {}

  template <int half, int rows>
  QSTEP_INLINE void take(int64_t row, int64_t x, const __m512i (&sums)[rows][2]) const {
    unroll<rows>([&](auto b) QSTEP_INLINE {
      unroll<lanes>([&](auto lane) QSTEP_INLINE {
        int32_t* to = sums_ + ((lane * rows_ + row + b) * part_columns_ + x) * lane_channels + 8 * half;
        avx2::store_half(to, _mm512_maskz_extracti32x4_epi32(all_of_half, sums[b][0], lane));
        avx2::store_half(to + 4, _mm512_maskz_extracti32x4_epi32(all_of_half, sums[b][1], lane));
      });
    });
  }

 private:
  int32_t* sums_;
  int64_t rows_;
  int64_t part_columns_;
};

}  // namespace qstep::kernels::avx512vnni::depthwise_3x3
QSTEP_AVX512VNNI_END
#endif
