#include "qstep/kernels/winograd_rows/x86_avx2.h"

#include <algorithm>

#include "qstep/kernels/epilogue/x86_avx2.h"
#include "qstep/kernels/x86_avx2.h"

#if defined(__x86_64__)
QSTEP_AVX2_BEGIN
namespace qstep::kernels::winograd_rows::avx2 {
namespace {

using kernels::avx2::add_int32;
using kernels::avx2::broadcast_4_bytes;
using kernels::avx2::ByFloatFactor;
using kernels::avx2::CodeRange;
using kernels::avx2::load;
using kernels::avx2::store;
using kernels::avx2::store_codes;
using kernels::avx2::unroll;
using kernels::avx2::with_constant;

constexpr int half_columns = tile_columns / 2;

template <int groups>
void multiply_groups(const Product& product) {
  const int16_t* weights = product.weights;
  for (int p = 0; p < positions; ++p) {
    const int32_t* start = product.start + p * tile_columns;
    __m256i left[groups];
    __m256i right[groups];
    unroll<groups>([&](auto g) QSTEP_INLINE {
      left[g] = load(start);
      right[g] = load(start + half_columns);
    });
    const int64_t offset = product.offset + p * product.position_stride;
    for (const int16_t* step : p == at_3 ? product.steps_at_3 : product.steps) {
      const int16_t* data = step + offset;
      const __m256i left_weights = load(weights);
      const __m256i right_weights = load(weights + 2 * half_columns);
      weights += WeightLayout::step_size;
      unroll<groups>([&](auto g) QSTEP_INLINE {
        const __m256i values = broadcast_4_bytes(data + g * group_data);
        add_int32(left[g], _mm256_madd_epi16(values, left_weights));
        add_int32(right[g], _mm256_madd_epi16(values, right_weights));
      });
    }
    int32_t* sums = product.sums + p * Madd16::tile_groups * tile_columns;
    unroll<groups>([&](auto g) QSTEP_INLINE {
      store(sums + g * tile_columns, left[g]);
      store(sums + g * tile_columns + half_columns, right[g]);
    });
  }
}

/// One position of two groups, from words of [groups][most_channels][phases] of each pair.
template <int position>
QSTEP_INLINE inline __m256i transform_pairs(const __m256i (&pairs)[group_pairs]) {
  __m256i sum = _mm256_setzero_si256();
  unroll<group_pairs>([&](auto k) QSTEP_INLINE {
    constexpr int16_t first = data_matrix[position][k][0];
    constexpr int16_t second = data_matrix[position][k][1];
    if constexpr (first != 0 || second != 0) {
      const __m256i factors = _mm256_set1_epi32(static_cast<uint16_t>(first) | second * (1 << 16));
      sum = _mm256_add_epi16(sum, _mm256_mullo_epi16(pairs[k], factors));
    }
  });
  return sum;
}

/// What makes words of [most_channels][phases] from bytes of [phases][channels], in both lanes.
__m256i order_of_words(int64_t channels) {
  alignas(16) uint8_t order[16];
  constexpr uint8_t zero = 0x80;
  for (int i = 0; i < most_channels * phases; ++i) {
    const int channel = i / phases;
    order[2 * i] = channel < channels ? static_cast<uint8_t>(i % phases * channels + channel) : zero;
    order[2 * i + 1] = zero;
  }
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(order)));
}

/// The first outputs of a group, in columns that begin at `sums`.
template <int outputs>
QSTEP_INLINE inline void transform_sums(const int32_t* sums, __m256i (&accumulators)[outputs]) {
  const auto at = [&](int p) QSTEP_INLINE { return load(sums + p * Madd16::tile_groups * tile_columns); };
  const auto add = [&](__m256i a, __m256i b) QSTEP_INLINE { return _mm256_add_epi32(a, b); };
  const auto thrice = [&](__m256i x) QSTEP_INLINE { return add(x, add(x, x)); };
  const __m256i even_1 = add(at(at_1), at(at_minus_1));
  const __m256i odd_1 = _mm256_sub_epi32(at(at_1), at(at_minus_1));
  const __m256i even_2 = add(at(at_2), at(at_minus_2));
  const __m256i odd_2 = _mm256_sub_epi32(at(at_2), at(at_minus_2));
  const __m256i times_3 = thrice(at(at_3));
  const __m256i times_9 = thrice(times_3);
  const __m256i times_27 = thrice(times_9);
  const __m256i in_units[group_outputs] = {
      add(add(at(at_0), at(at_3)), add(even_1, even_2)),
      add(times_3, add(odd_1, _mm256_slli_epi32(odd_2, 1))),
      add(times_9, add(even_1, _mm256_slli_epi32(even_2, 2))),
      add(add(times_27, at(at_infinity)), add(odd_1, _mm256_slli_epi32(odd_2, 3))),
  };
  // x / 120 where it has no rest: x / 8, times the inverse of 15 modulo 2^32.
  static_assert(unit == 8 * 15 && 15 * 0xEEEEEEEFU == 1);
  const __m256i inverse = _mm256_set1_epi32(static_cast<int32_t>(0xEEEEEEEFU));
  unroll<outputs>(
      [&](auto i) QSTEP_INLINE { accumulators[i] = _mm256_mullo_epi32(_mm256_srai_epi32(in_units[i], 3), inverse); });
}

}  // namespace

void Madd16::transform_input(const uint8_t* codes, int64_t channels, int64_t groups, int16_t* data,
                             int64_t position_stride) {
  const __m256i words = order_of_words(channels);
  const __m256i phase_0 =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1));
  const int64_t pair_codes = phases * channels;
  const int64_t group_codes = group_outputs * pair_codes;
  for (int64_t g = 0; g < groups; g += input_groups) {
    __m256i pairs[group_pairs];
    unroll<group_pairs>([&](auto k) QSTEP_INLINE {
      const auto pair = [&](int64_t group) QSTEP_INLINE {
        return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + group * group_codes + k * pair_codes));
      };
      pairs[k] = _mm256_shuffle_epi8(_mm256_set_m128i(pair(g + 1), pair(g)), words);
    });
    unroll<positions>([&](auto p) QSTEP_INLINE {
      const __m256i values = transform_pairs<p>(pairs);
      store(data + p * position_stride + g * group_data, p == at_3 ? _mm256_shuffle_epi8(values, phase_0) : values);
    });
  }
}

void Madd16::multiply(const Product& product) {
  with_constant<tile_groups>(product.groups, [&](auto groups) QSTEP_INLINE { multiply_groups<groups>(product); });
}

void Madd16::transform_output(const int32_t* sums, int groups, int32_t* accumulators) {
  for (int g = 0; g < groups; ++g) {
    for (int column = 0; column < tile_columns; column += half_columns) {
      __m256i outputs[group_outputs];
      transform_sums(sums + g * tile_columns + column, outputs);
      unroll<group_outputs>([&](auto i) QSTEP_INLINE {
        store(accumulators + (g * group_outputs + i) * tile_columns + column, outputs[i]);
      });
    }
  }
}

void Madd16::transform_to_codes(const int32_t* sums, const Epilogue& epilogue, const AccumulatorTile& where,
                                uint8_t* codes) {
  const ByFloatFactor rounding(epilogue.float_factors() + where.first_channel, epilogue.zero_point());
  const CodeRange range(epilogue);
  for (int row = 0; row < where.rows; row += group_outputs, sums += tile_columns) {
    with_constant<group_outputs>(std::min(group_outputs, where.rows - row), [&](auto rows) QSTEP_INLINE {
      __m256i left[rows];
      __m256i right[rows];
      transform_sums(sums, left);
      transform_sums(sums + half_columns, right);
      store_codes(left, right, rounding, range, where.channels, codes + where.first_channel, where.row_offsets + row);
    });
  }
}

}  // namespace qstep::kernels::winograd_rows::avx2
QSTEP_AVX2_END
#endif
