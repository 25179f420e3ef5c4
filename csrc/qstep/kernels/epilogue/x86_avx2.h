#pragma once
// From accumulators to codes in registers, sixteen channels at a time.
#include <cstdint>
#include <cstring>

#include "qstep/kernels/epilogue/epilogue.h"
#include "qstep/kernels/x86_avx2.h"

#if defined(__x86_64__)
QSTEP_AVX2_BEGIN
namespace qstep::kernels::avx2 {

// A Rounding turns accumulators of sixteen neighbouring channels into codes that are not clamped yet: words() gives them as
// int16 with saturation, in the order of vpackssdw, which takes four of the first eight, four of the last eight, and so on.

/// One fused multiplication and addition: the sum with 1.5 * 2^23 lies where floats are the integers, so it is rounded to
/// the nearest, ties to even, and its bits count the steps.
class ByFloatFactor {
 public:
  QSTEP_INLINE ByFloatFactor(const float* factors, int32_t zero_point)
      : factor_{_mm256_loadu_ps(factors), _mm256_loadu_ps(factors + 8)},
        integers_(_mm256_set1_ps(0x1.8p23F)),
        code_0_(_mm256_sub_epi32(_mm256_castps_si256(integers_), _mm256_set1_epi32(zero_point))) {}

  QSTEP_INLINE __m256i words(__m256i left, __m256i right) const {
    return _mm256_packs_epi32(eight(left, factor_[0]), eight(right, factor_[1]));
  }

 private:
  QSTEP_INLINE __m256i eight(__m256i accumulators, __m256 factor) const {
    const __m256 sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(accumulators), factor, integers_);
    return _mm256_sub_epi32(_mm256_castps_si256(sum), code_0_);
  }

  __m256 factor_[2];
  __m256 integers_;
  __m256i code_0_;  // the bits that stand for code 0
};

/// The same in doubles: the low half of the sum's bits counts the steps.
class ByDoubleFactor {
 public:
  QSTEP_INLINE ByDoubleFactor(const double* factors, int32_t zero_point)
      : zero_point_(_mm256_set1_epi16(static_cast<int16_t>(zero_point))) {
    unroll<4>([&](auto i) QSTEP_INLINE { factor_[i] = _mm256_loadu_pd(factors + 4 * i); });
  }

  QSTEP_INLINE __m256i words(__m256i left, __m256i right) const {
    return _mm256_adds_epi16(_mm256_packs_epi32(eight<0>(left), eight<1>(right)), zero_point_);
  }

 private:
  template <int half>
  QSTEP_INLINE __m256i eight(__m256i accumulators) const {
    const __m256 low = four(_mm256_castsi256_si128(accumulators), factor_[2 * half]);
    const __m256 high = four(_mm256_extracti128_si256(accumulators, 1), factor_[2 * half + 1]);
    return _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(low, high, 0x88)), 0xD8);
  }
  QSTEP_INLINE static __m256 four(__m128i accumulators, __m256d factor) {
    return _mm256_castpd_ps(_mm256_fmadd_pd(_mm256_cvtepi32_pd(accumulators), factor, _mm256_set1_pd(0x1.8p52)));
  }

  __m256d factor_[4];
  __m256i zero_point_;
};

/// From words to bytes, clamped. Every step from int32 to here saturates, so the clamp may come last, and one to [0, 255]
/// is done.
class CodeRange {
 public:
  QSTEP_INLINE explicit CodeRange(const Epilogue& epilogue)
      : low_(_mm256_set1_epi8(static_cast<char>(epilogue.clamp_min()))),
        high_(_mm256_set1_epi8(static_cast<char>(epilogue.clamp_max()))),
        is_all_(epilogue.clamp_min() == 0 && epilogue.clamp_max() == 255) {}

  /// The codes of two vectors of words: eight of the first, eight of the second, and so on.
  QSTEP_INLINE __m256i bytes(__m256i first, __m256i second) const {
    const __m256i bytes = _mm256_packus_epi16(first, second);
    return is_all_ ? bytes : _mm256_min_epu8(_mm256_max_epu8(bytes, low_), high_);
  }

  /// The codes of two rows of words, in the order of the channels.
  QSTEP_INLINE __m256i codes(__m256i first, __m256i second) const {
    return _mm256_permutevar8x32_epi32(bytes(first, second), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  }

 private:
  __m256i low_;
  __m256i high_;
  bool is_all_;
};

/// Stores the first `count` codes, 1..15.
QSTEP_INLINE inline void store_part(uint8_t* output, __m128i codes, int count) {
  if ((count & 8) != 0) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(output), codes);
    codes = _mm_srli_si128(codes, 8);
    output += 8;
  }
  if ((count & 4) != 0) {
    const int32_t four = _mm_cvtsi128_si32(codes);
    std::memcpy(output, &four, sizeof four);
    codes = _mm_srli_si128(codes, 4);
    output += 4;
  }
  const auto three = static_cast<uint32_t>(_mm_cvtsi128_si32(codes));
  for (int i = 0; i < (count & 3); ++i) output[i] = static_cast<uint8_t>(three >> (8 * i));
}

/// The epilogue of a tile in the registers that hold it: the codes of row r go to output + offsets[r * offset_step],
/// `channels` of them.
template <int rows, class Rounding>
QSTEP_INLINE inline void store_codes(const __m256i (&left)[rows], const __m256i (&right)[rows],
                                     const Rounding& rounding, const CodeRange& range, int channels, uint8_t* output,
                                     const int64_t* offsets, int offset_step = 1) {
  const auto store_rows = [&](auto store) QSTEP_INLINE {
    unroll<(rows + 1) / 2>([&](auto pair) QSTEP_INLINE {
      constexpr int first = 2 * pair;
      constexpr int second = first + 1 < rows ? first + 1 : first;
      const __m256i codes =
          range.codes(rounding.words(left[first], right[first]), rounding.words(left[second], right[second]));
      store(output + offsets[first * offset_step], _mm256_castsi256_si128(codes));
      if constexpr (second != first) store(output + offsets[second * offset_step], _mm256_extracti128_si256(codes, 1));
    });
  };
  if (channels == tile_columns) {
    store_rows([](uint8_t* row, __m128i codes) QSTEP_INLINE { store_half(row, codes); });
  } else {
    store_rows([&](uint8_t* row, __m128i codes) QSTEP_INLINE { store_part(row, codes, channels); });
  }
}

}  // namespace qstep::kernels::avx2
QSTEP_AVX2_END
#endif
