// Policy exact: one fused multiplication and addition in floats or in doubles; right because Epilogue keeps factors of a
// type only where it is (docs/numerics.md). Policy shift: shifts. Several sums: in doubles. Everything else, and that is
// gemmlowp or sums beyond a double: the definition.
#include <algorithm>

#include "qstep/kernels/epilogue/epilogue.h"
#include "qstep/kernels/x86_avx2.h"
#include "qstep/kernels/x86_avx2_shift.h"

#if defined(__x86_64__)
QSTEP_AVX2_BEGIN
namespace qstep::kernels {
namespace {

// A Rounding turns accumulators of sixteen neighbouring channels into steps of the output: words() gives them as int16 with
// saturation, in the order of vpackssdw, which takes four of the first eight, four of the last eight, and so on.

/// One fused multiplication and addition: the sum with 1.5 * 2^23 lies where floats are the integers, so it is rounded to
/// the nearest, ties to even, and its bits count the steps.
class ByFloatFactor {
 public:
  QSTEP_INLINE explicit ByFloatFactor(const float* factors)
      : factor_{_mm256_loadu_ps(factors), _mm256_loadu_ps(factors + 8)} {}

  QSTEP_INLINE __m256i words(const int32_t* accumulators) const {
    return _mm256_packs_epi32(eight(accumulators, factor_[0]), eight(accumulators + 8, factor_[1]));
  }

 private:
  QSTEP_INLINE static __m256i eight(const int32_t* accumulators, __m256 factor) {
    const __m256 integers = _mm256_set1_ps(0x1.8p23F);
    const __m256 sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(avx2::load(accumulators)), factor, integers);
    return _mm256_sub_epi32(_mm256_castps_si256(sum), _mm256_castps_si256(integers));
  }

  __m256 factor_[2];
};

/// The same in doubles: the low half of the sum's bits counts the steps.
class ByDoubleFactor {
 public:
  QSTEP_INLINE explicit ByDoubleFactor(const double* factors) {
    avx2::unroll<4>([&](auto i) QSTEP_INLINE { factor_[i] = _mm256_loadu_pd(factors + 4 * i); });
  }

  QSTEP_INLINE __m256i words(const int32_t* accumulators) const {
    __m256 sums[4];
    avx2::unroll<4>([&](auto i) QSTEP_INLINE {
      const __m256d codes = _mm256_cvtepi32_pd(avx2::load_half(accumulators + 4 * i));
      sums[i] = _mm256_castpd_ps(_mm256_fmadd_pd(codes, factor_[i], _mm256_set1_pd(0x1.8p52)));
    });
    return _mm256_packs_epi32(low_halves(sums[0], sums[1]), low_halves(sums[2], sums[3]));
  }

 private:
  QSTEP_INLINE static __m256i low_halves(__m256 first, __m256 second) {
    return _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(first, second, 0x88)), 0xD8);
  }

  __m256d factor_[4];
};

/// The largest magnitude of steps that matters: all beyond become the same code.
constexpr double step_limit = 1024;

QSTEP_INLINE inline __m128i round_doubles(__m256d steps) {
  const __m256d limit = _mm256_set1_pd(step_limit);
  return _mm256_cvtpd_epi32(_mm256_min_pd(_mm256_max_pd(steps, _mm256_set1_pd(-step_limit)), limit));
}

QSTEP_INLINE inline __m256i words_of(const __m128i (&steps)[4]) {
  return _mm256_packs_epi32(_mm256_set_m128i(steps[1], steps[0]), _mm256_set_m128i(steps[3], steps[2]));
}

class ByShift {
 public:
  QSTEP_INLINE explicit ByShift(const int32_t* shifts)
      : shift_{avx2::ShiftHalfEven(avx2::load(shifts)), avx2::ShiftHalfEven(avx2::load(shifts + 8))} {}

  QSTEP_INLINE __m256i words(const int32_t* accumulators) const {
    return _mm256_packs_epi32(shift_[0](avx2::load(accumulators)), shift_[1](avx2::load(accumulators + 8)));
  }

 private:
  avx2::ShiftHalfEven shift_[2];
};

/// The sums of a combination: every product, every partial sum and t itself are exact, and rounded once.
class ByCombination {
 public:
  QSTEP_INLINE ByCombination(const Combiner& combiner, const AccumulatorTile& tile)
      : factors_(combiner.factors() + tile.first_channel),
        factor_stride_(combiner.factor_stride()),
        sums_(combiner.sums()),
        sum_stride_(tile.sum_stride) {}

  QSTEP_INLINE __m256i words(const int32_t* accumulators) const {
    __m128i steps[4];
    avx2::unroll<4>([&](auto i) QSTEP_INLINE {
      __m256d t = _mm256_loadu_pd(factors_ + sums_ * factor_stride_ + 4 * i);
      for (int k = 0; k < sums_; ++k) {
        const __m256d sum = _mm256_cvtepi32_pd(avx2::load_half(accumulators + k * sum_stride_ + 4 * i));
        t = _mm256_add_pd(t, _mm256_mul_pd(sum, _mm256_loadu_pd(factors_ + k * factor_stride_ + 4 * i)));
      }
      steps[i] = round_doubles(t);
    });
    return words_of(steps);
  }

 private:
  const double* factors_;
  int64_t factor_stride_;
  int sums_;
  int64_t sum_stride_;
};

struct CodeRange {
  __m256i zero_point;  // words
  __m256i low;         // bytes
  __m256i high;

  QSTEP_INLINE CodeRange(int32_t zero_point, int32_t clamp_min, int32_t clamp_max)
      : zero_point(_mm256_set1_epi16(static_cast<int16_t>(zero_point))),
        low(_mm256_set1_epi8(static_cast<char>(clamp_min))),
        high(_mm256_set1_epi8(static_cast<char>(clamp_max))) {}

  /// The codes of two rows of words. Every step from int32 to here saturates, so the clamp may come last.
  QSTEP_INLINE __m256i codes(__m256i first, __m256i second) const {
    const __m256i bytes =
        _mm256_packus_epi16(_mm256_adds_epi16(first, zero_point), _mm256_adds_epi16(second, zero_point));
    const __m256i clamped = _mm256_min_epu8(_mm256_max_epu8(bytes, low), high);
    return _mm256_permutevar8x32_epi32(clamped, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  }
};

/// store(row in the output, codes of the sixteen channels) for every row.
template <class Rounding, class Store>
QSTEP_INLINE inline void for_each_row(const AccumulatorTile& tile, const Rounding& rounding, const CodeRange& range,
                                      uint8_t* output, Store store) {
  const int32_t* accumulators = tile.accumulators;
  const int64_t* offsets = tile.row_offsets;
  const int rows = tile.rows;
  output += tile.first_channel;
  for (int r = 0; r < rows; r += 2) {
    const int second = std::min(r + 1, rows - 1);  // of an odd row at the end, itself
    const __m256i codes = range.codes(rounding.words(accumulators + r * tile_columns),
                                      rounding.words(accumulators + second * tile_columns));
    store(output + offsets[r], _mm256_castsi256_si128(codes));
    store(output + offsets[second], _mm256_extracti128_si256(codes, 1));
  }
}

template <class Rounding>
void store_codes(const AccumulatorTile& tile, const Rounding& rounding, const CodeRange& range, uint8_t* output) {
  if (tile.channels == tile_columns) {
    for_each_row(tile, rounding, range, output,
                 [](uint8_t* row, __m128i codes) QSTEP_INLINE { avx2::store_half(row, codes); });
  } else {
    const auto channels = static_cast<size_t>(tile.channels);
    for_each_row(tile, rounding, range, output, [channels](uint8_t* row, __m128i codes) QSTEP_INLINE {
      alignas(16) uint8_t lanes[tile_columns];
      avx2::store_half(lanes, codes);
      std::memcpy(row, lanes, channels);
    });
  }
}

}  // namespace

void Epilogue::store_avx2(const AccumulatorTile& tile, const Output& output) const {
  const CodeRange range(zero_point_, clamp_min_, clamp_max_);
  if (!combiner_.empty()) {
    if (combiner_.factors() == nullptr || output.codes == nullptr) return store_combined(tile, output);
    store_codes(tile, ByCombination(combiner_, tile), range, output.codes);
  } else if (is_raw()) {
    store_accumulators(tile, output.accumulators);
  } else if (!float_factors_.empty()) {
    store_codes(tile, ByFloatFactor(float_factors_.data() + tile.first_channel), range, output.codes);
  } else if (!factors_.empty()) {
    store_codes(tile, ByDoubleFactor(factors_.data() + tile.first_channel), range, output.codes);
  } else if (!shifts_.empty()) {
    store_codes(tile, ByShift(shifts_.data() + tile.first_channel), range, output.codes);
  } else {
    store_reference(tile, output);
  }
}

}  // namespace qstep::kernels
QSTEP_AVX2_END
#endif
