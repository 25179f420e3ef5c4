// One multiplication, one rounding in doubles: exact, because Epilogue keeps factors only where it is
// (docs/numerics.md).
#include "qstep/kernels/x86_avx2.h"
#include "qstep/kernels/epilogue/epilogue.h"

#if defined(__x86_64__)
QSTEP_AVX2_BEGIN
namespace qstep::kernels {

void Epilogue::store_avx2(const AccumulatorTile& tile, const Output& output) const {
  if (is_raw()) return store_accumulators(tile, output.accumulators);
  if (factors_.empty()) return store_reference(tile, output);
  store_codes_avx2(tile, output.codes);
}

void Epilogue::store_codes_avx2(const AccumulatorTile& tile, uint8_t* output) const {
  const double* factors = factors_.data() + tile.first_channel;
  const __m256d factor[4] = {_mm256_loadu_pd(factors), _mm256_loadu_pd(factors + 4), _mm256_loadu_pd(factors + 8),
                             _mm256_loadu_pd(factors + 12)};
  const __m256d low = _mm256_set1_pd(clamp_min_ - zero_point_);  // clamping to integers commutes with rounding
  const __m256d high = _mm256_set1_pd(clamp_max_ - zero_point_);
  const __m128i zero_point = _mm_set1_epi16(static_cast<int16_t>(zero_point_));
  for (int r = 0; r < tile.rows; ++r) {
    const int32_t* accumulators = tile.accumulators + r * tile_columns;
    __m128i rounded[4];
    avx2::unroll<4>([&](auto i) QSTEP_INLINE {
      const __m256d product = _mm256_mul_pd(_mm256_cvtepi32_pd(avx2::load_half(accumulators + 4 * i)), factor[i]);
      rounded[i] = _mm256_cvtpd_epi32(_mm256_min_pd(_mm256_max_pd(product, low), high));
    });
    const __m128i codes = avx2::pack_codes(rounded[0], rounded[1], rounded[2], rounded[3], zero_point);
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

}  // namespace qstep::kernels
QSTEP_AVX2_END
#endif
