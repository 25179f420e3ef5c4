#include "qstep/kernels/winograd/x86_avx2.h"

#include <algorithm>

#include "qstep/kernels/epilogue/epilogue.h"
#include "qstep/kernels/x86_avx2.h"

#if defined(__x86_64__)
QSTEP_AVX2_BEGIN
namespace qstep::kernels::winograd::avx2 {
namespace {

using kernels::avx2::load;
using kernels::avx2::load_half;
using kernels::avx2::store;
using kernels::avx2::unroll;

struct ByteLanes {
  using Data = uint8_t;
  static constexpr int64_t channels = 32;

  QSTEP_INLINE static __m256i load_codes(const uint8_t* p) { return load(p); }
  QSTEP_INLINE static __m256i add(__m256i a, __m256i b) { return _mm256_add_epi8(a, b); }
  QSTEP_INLINE static __m256i subtract(__m256i a, __m256i b) { return _mm256_sub_epi8(a, b); }
  QSTEP_INLINE static __m256i broadcast(int32_t x) { return _mm256_set1_epi8(static_cast<char>(x)); }
};

struct WordLanes {
  using Data = int16_t;
  static constexpr int64_t channels = 16;

  QSTEP_INLINE static __m256i load_codes(const uint8_t* p) { return _mm256_cvtepu8_epi16(load_half(p)); }
  QSTEP_INLINE static __m256i add(__m256i a, __m256i b) { return _mm256_add_epi16(a, b); }
  QSTEP_INLINE static __m256i subtract(__m256i a, __m256i b) { return _mm256_sub_epi16(a, b); }
  QSTEP_INLINE static __m256i broadcast(int32_t x) { return _mm256_set1_epi16(static_cast<int16_t>(x)); }
};

/// B times column x of a patch. Bytes wrap; they are right again once the offset is added.
template <class Lanes>
QSTEP_INLINE inline void transform_column(const PatchRow& row, int64_t x, int64_t channel,
                                          __m256i (&column)[patch_size]) {
  __m256i codes[patch_size];
  unroll<patch_size>([&](auto i) QSTEP_INLINE { codes[i] = Lanes::load_codes(row.pixel(i, x) + channel); });
  column[0] = Lanes::subtract(codes[0], codes[2]);
  column[1] = Lanes::add(codes[1], codes[2]);
  column[2] = Lanes::subtract(codes[2], codes[1]);
  column[3] = Lanes::subtract(codes[1], codes[3]);
}

/// A patch shares two columns with the next one.
template <class Lanes>
void transform_patches(const PatchRow& row, int64_t channel, int32_t data_offset, typename Lanes::Data* data,
                       int64_t patch_stride, int64_t position_stride) {
  const __m256i offset = Lanes::broadcast(data_offset);
  __m256i c0[patch_size];
  __m256i c1[patch_size];
  transform_column<Lanes>(row, row.column, channel, c0);
  transform_column<Lanes>(row, row.column + 1, channel, c1);
  data += channel;
  for (int n = 0; n < row.count; ++n, data += patch_stride) {
    __m256i c2[patch_size];
    __m256i c3[patch_size];
    const int64_t x = row.column + patch_outputs * n;
    transform_column<Lanes>(row, x + 2, channel, c2);
    transform_column<Lanes>(row, x + 3, channel, c3);
    unroll<patch_size>([&](auto i) QSTEP_INLINE {
      const auto put = [&](int position, __m256i value) QSTEP_INLINE {
        store(data + position * position_stride, position == centre ? value : Lanes::add(value, offset));
      };
      put(patch_size * i, Lanes::subtract(c0[i], c2[i]));
      put(patch_size * i + 1, Lanes::add(c1[i], c2[i]));
      put(patch_size * i + 2, Lanes::subtract(c2[i], c1[i]));
      put(patch_size * i + 3, Lanes::subtract(c1[i], c3[i]));
      c0[i] = c2[i];
      c1[i] = c3[i];
    });
  }
}

/// Whole vectors of channels; the last one ends with the channels and overlaps the one before.
template <class Lanes>
void transform_channels(const PatchRow& row, int64_t channels, int32_t data_offset, typename Lanes::Data* data,
                        int64_t patch_stride, int64_t position_stride) {
  for (int64_t c = 0; c < channels; c += Lanes::channels) {
    transform_patches<Lanes>(row, std::min(c, channels - Lanes::channels), data_offset, data, patch_stride,
                             position_stride);
  }
}

}  // namespace

void Words::transform_input(const PatchRow& row, int64_t channels, int32_t data_offset, int16_t* data,
                            int64_t patch_stride, int64_t position_stride) {
  transform_channels<WordLanes>(row, channels, data_offset, data, patch_stride, position_stride);
}

void Bytes::transform_input(const PatchRow& row, int64_t channels, int32_t data_offset, uint8_t* data,
                            int64_t patch_stride, int64_t position_stride) {
  transform_channels<ByteLanes>(row, channels, data_offset, data, patch_stride, position_stride);
}

int transform_output(const int32_t* sums, int64_t position_stride, const PatchExtent* extents, int count,
                     const int32_t* bias, int32_t* accumulators) {
  constexpr int lanes = 8;
  const int32_t* const begin = accumulators;
  for (int n = 0; n < count; ++n, sums += tile_columns) {
    int32_t* output[patch_outputs][patch_outputs];
    const auto place = [&](int y, int x, bool kept) {
      output[y][x] = accumulators;
      accumulators += kept ? tile_columns : 0;
    };
    place(0, 0, true);
    place(0, 1, extents[n].right);
    place(1, 0, extents[n].bottom);
    place(1, 1, extents[n].right && extents[n].bottom);
    for (int half = 0; half < tile_columns; half += lanes) {
      const __m256i four_bias = load(bias + half);
      __m256i top[patch_size];
      __m256i bottom[patch_size];
      unroll<patch_size>([&](auto x) QSTEP_INLINE {
        const auto at = [&](int y) QSTEP_INLINE { return load(sums + (patch_size * y + x) * position_stride + half); };
        const __m256i s1 = at(1);
        const __m256i s2 = at(2);
        top[x] = _mm256_add_epi32(at(0), _mm256_add_epi32(s1, s2));
        bottom[x] = _mm256_sub_epi32(_mm256_sub_epi32(s1, s2), at(3));
      });
      const auto put = [&](const __m256i(&s)[patch_size], int32_t* left, int32_t* right) QSTEP_INLINE {
        const __m256i four_left = _mm256_add_epi32(_mm256_add_epi32(s[0], s[1]), _mm256_add_epi32(s[2], four_bias));
        const __m256i four_right = _mm256_sub_epi32(_mm256_add_epi32(s[1], four_bias), _mm256_add_epi32(s[2], s[3]));
        store(left + half, _mm256_srai_epi32(four_left, 2));
        store(right + half, _mm256_srai_epi32(four_right, 2));
      };
      // In order: what is dropped lies where the next output goes.
      put(top, output[0][0], output[0][1]);
      put(bottom, output[1][0], output[1][1]);
    }
  }
  return static_cast<int>((accumulators - begin) / tile_columns);
}

}  // namespace qstep::kernels::winograd::avx2
QSTEP_AVX2_END
#endif
