// Policy exact: one fused multiplication and addition in floats or in doubles; right because Epilogue keeps factors of a
// type only where it is (docs/numerics.md). Policy shift: shifts. Several sums: in doubles. Everything else, and that is
// gemmlowp or sums beyond a double: the definition.
#include "qstep/kernels/epilogue/x86_avx2.h"

#include <algorithm>

#include "qstep/kernels/x86_avx2_shift.h"

#if defined(__x86_64__)
QSTEP_AVX2_BEGIN
namespace qstep::kernels {
namespace {

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
  QSTEP_INLINE ByShift(const int32_t* shifts, int32_t zero_point)
      : shift_{avx2::ShiftHalfEven(avx2::load(shifts)), avx2::ShiftHalfEven(avx2::load(shifts + 8))},
        zero_point_(_mm256_set1_epi16(static_cast<int16_t>(zero_point))) {}

  QSTEP_INLINE __m256i words(__m256i left, __m256i right) const {
    return _mm256_adds_epi16(_mm256_packs_epi32(shift_[0](left), shift_[1](right)), zero_point_);
  }

 private:
  avx2::ShiftHalfEven shift_[2];
  __m256i zero_point_;
};

/// The sums of a combination: every product, every partial sum and t itself are exact, and rounded once.
class ByCombination {
 public:
  QSTEP_INLINE ByCombination(const Combiner& combiner, const AccumulatorTile& tile, int32_t zero_point)
      : factors_(combiner.factors() + tile.first_channel),
        factor_stride_(combiner.factor_stride()),
        sums_(combiner.sums()),
        sum_stride_(tile.sum_stride),
        zero_point_(_mm256_set1_epi16(static_cast<int16_t>(zero_point))) {}

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
    return _mm256_adds_epi16(words_of(steps), zero_point_);
  }

 private:
  const double* factors_;
  int64_t factor_stride_;
  int sums_;
  int64_t sum_stride_;
  __m256i zero_point_;
};

template <class Rounding>
QSTEP_INLINE inline __m256i words(const Rounding& rounding, const int32_t* accumulators) {
  return rounding.words(avx2::load(accumulators), avx2::load(accumulators + 8));
}
QSTEP_INLINE inline __m256i words(const ByCombination& rounding, const int32_t* accumulators) {
  return rounding.words(accumulators);
}

/// store(row in the output, codes of the sixteen channels) for every row.
template <class Rounding, class Store>
QSTEP_INLINE inline void for_each_row(const AccumulatorTile& tile, const Rounding& rounding,
                                      const avx2::CodeRange& range, uint8_t* output, Store store) {
  const int32_t* accumulators = tile.accumulators;
  const int64_t* offsets = tile.row_offsets;
  const int rows = tile.rows;
  output += tile.first_channel;
  for (int r = 0; r < rows; r += 2) {
    const int second = std::min(r + 1, rows - 1);  // of an odd row at the end, itself
    const __m256i codes = range.codes(words(rounding, accumulators + r * tile_columns),
                                      words(rounding, accumulators + second * tile_columns));
    store(output + offsets[r], _mm256_castsi256_si128(codes));
    store(output + offsets[second], _mm256_extracti128_si256(codes, 1));
  }
}

template <class Rounding>
void store_codes(const AccumulatorTile& tile, const Rounding& rounding, const avx2::CodeRange& range, uint8_t* output) {
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
  const avx2::CodeRange range(*this);
  if (!combiner_.empty()) {
    if (combiner_.factors() == nullptr || output.codes == nullptr) return store_combined(tile, output);
    store_codes(tile, ByCombination(combiner_, tile, zero_point_), range, output.codes);
  } else if (is_raw()) {
    store_accumulators(tile, output.accumulators);
  } else if (!float_factors_.empty()) {
    store_codes(tile, avx2::ByFloatFactor(float_factors_.data() + tile.first_channel, zero_point_), range,
                output.codes);
  } else if (!factors_.empty()) {
    store_codes(tile, avx2::ByDoubleFactor(factors_.data() + tile.first_channel, zero_point_), range, output.codes);
  } else if (!shifts_.empty()) {
    store_codes(tile, ByShift(shifts_.data() + tile.first_channel, zero_point_), range, output.codes);
  } else {
    store_reference(tile, output);
  }
}

}  // namespace qstep::kernels
QSTEP_AVX2_END
#endif
