// Policy exact: one multiplication, one rounding in doubles, exact because Epilogue keeps factors only where it is
// (docs/numerics.md). Policy shift: shifts. Several sums: the same as the first. Everything else, and that is gemmlowp or sums
// beyond a double: the definition.
#include "qstep/kernels/x86_avx2.h"
#include "qstep/kernels/epilogue/epilogue.h"
#include "qstep/kernels/x86_avx2_shift.h"

#if defined(__x86_64__)
QSTEP_AVX2_BEGIN
namespace qstep::kernels {
namespace {

/// Sixteen accumulators of neighbouring channels to steps of the output, four to a vector.
class ByFactor {
 public:
  QSTEP_INLINE ByFactor(const double* factors, int32_t low, int32_t high)
      : low_(_mm256_set1_pd(low)), high_(_mm256_set1_pd(high)) {
    avx2::unroll<4>([&](auto i) QSTEP_INLINE { factor_[i] = _mm256_loadu_pd(factors + 4 * i); });
  }

  QSTEP_INLINE void round(const int32_t* accumulators, __m128i (&steps)[4]) const {
    avx2::unroll<4>([&](auto i) QSTEP_INLINE {
      const __m256d product = _mm256_mul_pd(_mm256_cvtepi32_pd(avx2::load_half(accumulators + 4 * i)), factor_[i]);
      // Clamping to integers commutes with rounding.
      steps[i] = _mm256_cvtpd_epi32(_mm256_min_pd(_mm256_max_pd(product, low_), high_));
    });
  }

 private:
  __m256d factor_[4];
  __m256d low_;
  __m256d high_;
};

class ByShift {
 public:
  QSTEP_INLINE ByShift(const int32_t* shifts, int32_t low, int32_t high)
      : shift_{avx2::ShiftHalfEven(avx2::load(shifts)), avx2::ShiftHalfEven(avx2::load(shifts + 8))},
        limits_{_mm256_set1_epi32(low), _mm256_set1_epi32(high)} {}

  QSTEP_INLINE void round(const int32_t* accumulators, __m128i (&steps)[4]) const {
    avx2::unroll<2>([&](auto i) QSTEP_INLINE {
      const __m256i eight = limits_(shift_[i](avx2::load(accumulators + 8 * i)));
      steps[2 * i] = _mm256_castsi256_si128(eight);
      steps[2 * i + 1] = _mm256_extracti128_si256(eight, 1);
    });
  }

 private:
  avx2::ShiftHalfEven shift_[2];
  avx2::Limits limits_;
};

/// The sums of a combination: every product, every partial sum and t itself are exact, and rounded once.
class ByCombination {
 public:
  QSTEP_INLINE ByCombination(const Combiner& combiner, const AccumulatorTile& tile, int32_t low, int32_t high)
      : factors_(combiner.factors() + tile.first_channel),
        factor_stride_(combiner.factor_stride()),
        sums_(combiner.sums()),
        sum_stride_(tile.sum_stride),
        low_(_mm256_set1_pd(low)),
        high_(_mm256_set1_pd(high)) {}

  QSTEP_INLINE void round(const int32_t* accumulators, __m128i (&steps)[4]) const {
    avx2::unroll<4>([&](auto i) QSTEP_INLINE {
      __m256d t = _mm256_loadu_pd(factors_ + sums_ * factor_stride_ + 4 * i);
      for (int k = 0; k < sums_; ++k) {
        const __m256d sum = _mm256_cvtepi32_pd(avx2::load_half(accumulators + k * sum_stride_ + 4 * i));
        t = _mm256_add_pd(t, _mm256_mul_pd(sum, _mm256_loadu_pd(factors_ + k * factor_stride_ + 4 * i)));
      }
      steps[i] = _mm256_cvtpd_epi32(_mm256_min_pd(_mm256_max_pd(t, low_), high_));
    });
  }

 private:
  const double* factors_;
  int64_t factor_stride_;
  int sums_;
  int64_t sum_stride_;
  __m256d low_;
  __m256d high_;
};

template <class Rounding>
void store_codes(const AccumulatorTile& tile, const Rounding& rounding, int32_t zero_point, uint8_t* output) {
  const __m128i zero_point_16 = _mm_set1_epi16(static_cast<int16_t>(zero_point));
  for (int r = 0; r < tile.rows; ++r) {
    __m128i steps[4];
    rounding.round(tile.accumulators + r * tile_columns, steps);
    const __m128i codes = avx2::pack_codes(steps[0], steps[1], steps[2], steps[3], zero_point_16);
    uint8_t* row = output + tile.row_offsets[r] + tile.first_channel;
    if (tile.channels == tile_columns) {
      avx2::store_half(row, codes);
    } else {
      alignas(16) uint8_t lanes[tile_columns];
      avx2::store_half(lanes, codes);
      std::memcpy(row, lanes, static_cast<size_t>(tile.channels));
    }
  }
}

}  // namespace

void Epilogue::store_avx2(const AccumulatorTile& tile, const Output& output) const {
  const int32_t low = clamp_min_ - zero_point_;
  const int32_t high = clamp_max_ - zero_point_;
  if (!combiner_.empty()) {
    if (combiner_.factors() == nullptr || output.codes == nullptr) return store_combined(tile, output);
    store_codes(tile, ByCombination(combiner_, tile, low, high), zero_point_, output.codes);
  } else if (is_raw()) {
    store_accumulators(tile, output.accumulators);
  } else if (!factors_.empty()) {
    store_codes(tile, ByFactor(factors_.data() + tile.first_channel, low, high), zero_point_, output.codes);
  } else if (!shifts_.empty()) {
    store_codes(tile, ByShift(shifts_.data() + tile.first_channel, low, high), zero_point_, output.codes);
  } else {
    store_reference(tile, output);
  }
}

}  // namespace qstep::kernels
QSTEP_AVX2_END
#endif
