#include "qstep/kernels/gemm/x86_avx512vnni_packed_bits.h"

#include <cstring>

#include "qstep/kernels/x86_avx512.h"

#if defined(__x86_64__)
namespace qstep::kernels::avx512vnni {

template <int bits>
void PackedBitsDpbusd<bits>::stage(const uint8_t* input, int64_t count, uint8_t* output) {
  std::memcpy(output, input, static_cast<size_t>(count));
}

}  // namespace qstep::kernels::avx512vnni

QSTEP_AVX512VNNI_BEGIN
namespace qstep::kernels::avx512vnni {
namespace {

/// The sum of a row's codes, in every lane, is that of the products with weights of 1.
template <int bits, int rows, int panels>
void multiply_packed_bits(const TileInput<uint8_t>& input, const PackedBits<bits>& packed, const uint8_t* panel,
                          const int32_t* bias, int32_t* tile) {
  const int64_t panel_size = packed.groups * step_weights;
  const __m512i mask = _mm512_set1_epi8((1 << bits) - 1);
  const __m512i ones = _mm512_set1_epi8(1);
  const uint8_t* row[rows];
  __m512i codes_sum[rows];
  __m512i sum[rows][panels];
  unroll<rows>([&](auto r) QSTEP_INLINE {
    row[r] = input.row[r];
    codes_sum[r] = _mm512_setzero_si512();
    unroll<panels>([&](auto p) QSTEP_INLINE { sum[r][p] = load(bias + p * tile_columns); });
  });
  for (int64_t g = 0; g < packed.groups; ++g) {
    const int32_t first_code = input.steps[g];
    __m512i group[panels];
    unroll<panels>([&](auto p) QSTEP_INLINE { group[p] = load(panel + p * panel_size); });
    unroll<PackedBits<bits>::group_steps>([&](auto s) QSTEP_INLINE {
      __m512i codes[rows];
      unroll<rows>([&](auto r) QSTEP_INLINE {
        codes[r] = broadcast_4_bytes(row[r] + first_code + s * step_depth);
        codes_sum[r] = _mm512_dpbusd_epi32(codes_sum[r], codes[r], ones);
      });
      unroll<panels>([&](auto p) QSTEP_INLINE {
        const __m512i weights = _mm512_and_si512(_mm512_srli_epi16(group[p], s * bits), mask);
        unroll<rows>([&](auto r) QSTEP_INLINE {
          sum[r][p] = _mm512_dpbusd_epi32(sum[r][p], codes[r], weights);
          keep_in_register(sum[r][p]);
        });
      });
    });
    panel += step_weights;
  }
  const __m512i offset = _mm512_set1_epi32(packed.offset);
  unroll<rows>([&](auto r) QSTEP_INLINE {
    const __m512i of_row = _mm512_mullo_epi32(offset, codes_sum[r]);
    unroll<panels>([&](auto p) QSTEP_INLINE {
      store(tile + (p * PackedBitsDpbusd<bits>::tile_rows + r) * tile_columns, _mm512_add_epi32(sum[r][p], of_row));
    });
  });
}

}  // namespace

template <int bits>
void PackedBitsDpbusd<bits>::multiply(int64_t panel, int panels, const TileInput<uint8_t>& input, const int32_t* bias,
                                      int32_t* tile) const {
  avx2::with_constant<tile_rows>(input.rows, [&](auto r) {
    avx2::with_constant<tile_panels(r)>(
        panels, [&](auto p) { multiply_packed_bits<bits, r, p>(input, packed_, packed_.panel(panel), bias, tile); });
  });
}

template class PackedBitsDpbusd<2>;
template class PackedBitsDpbusd<4>;

}  // namespace qstep::kernels::avx512vnni
QSTEP_AVX512VNNI_END
#endif
