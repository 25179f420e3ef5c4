// As x86_avx2.cpp, sixteen channels to a vector and four rows of codes at a time. What is rare is left to that file.
#include "qstep/kernels/epilogue/x86_avx512.h"

#include <algorithm>

#if defined(__x86_64__)
QSTEP_AVX512VNNI_BEGIN
namespace qstep::kernels {
namespace {

template <class Rounding>
void store_codes(const AccumulatorTile& tile, const Rounding& rounding, const avx512vnni::CodeRange& range,
                 uint8_t* output) {
  const auto mask = static_cast<__mmask16>((1U << tile.channels) - 1);
  output += tile.first_channel;
  const auto store = [&](auto rows, int r) QSTEP_INLINE {
    __m512i sums[4];
    avx512vnni::unroll<4>([&](auto i) QSTEP_INLINE {
      constexpr int at = std::min<int>(i, rows - 1);
      sums[i] = avx512vnni::load(tile.accumulators + (r + at) * tile_columns);
    });
    avx512vnni::store_rows<rows>(rounding, range, sums, mask, output, tile.row_offsets + r);
  };
  int r = 0;
  for (; r + 4 <= tile.rows; r += 4) store(std::integral_constant<int, 4>{}, r);
  for (; r < tile.rows; ++r) store(std::integral_constant<int, 1>{}, r);
}

}  // namespace

void Epilogue::store_avx512(const AccumulatorTile& tile, const Output& output) const {
  const avx512vnni::CodeRange range(*this);
  if (float_factors() != nullptr) {
    store_codes(tile, avx512vnni::ByFloatFactor(float_factors() + tile.first_channel, zero_point()), range,
                output.codes);
  } else if (factors() != nullptr) {
    store_codes(tile, avx512vnni::ByDoubleFactor(factors() + tile.first_channel, zero_point()), range, output.codes);
  } else {
    store_avx2(tile, output);
  }
}

}  // namespace qstep::kernels
QSTEP_AVX512VNNI_END
#endif
