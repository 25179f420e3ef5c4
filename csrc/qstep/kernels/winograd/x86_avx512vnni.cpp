#include "qstep/kernels/winograd/x86_avx512vnni.h"

#include "qstep/kernels/epilogue/x86_avx512.h"
#include "qstep/kernels/x86_avx512.h"

#if defined(__x86_64__)
namespace qstep::kernels::winograd::avx512vnni {

bool Dpbusd::supports(const Conv2dProblem& problem) { return problem.in_channels >= lanes && fits(problem); }

}  // namespace qstep::kernels::winograd::avx512vnni

QSTEP_AVX512VNNI_BEGIN
namespace qstep::kernels::winograd::avx512vnni {
namespace {

using kernels::avx512vnni::broadcast_4_bytes;
using kernels::avx512vnni::ByFloatFactor;
using kernels::avx512vnni::CodeRange;
using kernels::avx512vnni::keep_in_register;
using kernels::avx512vnni::load;
using kernels::avx512vnni::store_rows;
using kernels::avx512vnni::unroll;

constexpr __mmask16 all_sums = 0xFFFF;  // gcc 12 warns of the intrinsic without a mask

struct Sums {
  using Vector = __m512i;
  static constexpr int count = 16;

  QSTEP_INLINE static Vector load(const void* p) { return kernels::avx512vnni::load(p); }
  QSTEP_INLINE static void store(void* p, Vector x) { kernels::avx512vnni::store(p, x); }
  QSTEP_INLINE static Vector add(Vector a, Vector b) { return _mm512_add_epi32(a, b); }
  QSTEP_INLINE static Vector subtract(Vector a, Vector b) { return _mm512_sub_epi32(a, b); }
  QSTEP_INLINE static Vector quarter(Vector x) { return _mm512_maskz_srai_epi32(all_sums, x, 2); }
};

#include "qstep/kernels/winograd/x86_kernels.inc"

struct Bytes {
  using Vector = __m512i;
  using Data = uint8_t;
  using Weight = int8_t;
  static constexpr int count = 64;

  QSTEP_INLINE static Vector load_codes(const uint8_t* p) { return load(p); }
  QSTEP_INLINE static Vector load_taps(const int8_t* p) { return load(p); }
  QSTEP_INLINE static void store(void* p, Vector x) { kernels::avx512vnni::store(p, x); }
  QSTEP_INLINE static Vector add(Vector a, Vector b) { return _mm512_add_epi8(a, b); }
  QSTEP_INLINE static Vector subtract(Vector a, Vector b) { return _mm512_sub_epi8(a, b); }
  QSTEP_INLINE static Vector broadcast(int32_t x) { return _mm512_set1_epi8(static_cast<char>(x)); }
};

struct VnniDot {
  using Data = uint8_t;
  using Weight = int8_t;

  QSTEP_INLINE static void accumulate(__m512i& sums, __m512i values, __m512i weights) {
    sums = _mm512_dpbusd_epi32(sums, values, weights);
    keep_in_register(sums);
  }
};

}  // namespace

int Dpbusd::transform_output(const PatchSums& patches, int32_t* accumulators) {
  return transform_sums<Stride1>(patches, accumulators);
}

void Dpbusd::transform_to_codes(const PatchSums& patches, const Epilogue& epilogue, const AccumulatorTile& where,
                                uint8_t* codes) {
  const ByFloatFactor rounding(epilogue.float_factors() + where.first_channel, epilogue.zero_point());
  const CodeRange range(epilogue);
  const auto mask = static_cast<__mmask16>((1U << where.channels) - 1);
  const int64_t* offsets = where.row_offsets;
  for_each_patch<Stride1>(patches, [&]<int rows>(const __m512i(&outputs)[1][rows]) QSTEP_INLINE {
    __m512i sums[4];
    unroll<4>([&](auto r) QSTEP_INLINE { sums[r] = outputs[0][r < rows ? r : 0]; });
    store_rows<rows>(rounding, range, sums, mask, codes + where.first_channel, offsets);
    offsets += rows;
  });
}

void Dpbusd::transform_kernels(const int8_t* kernels, int64_t size, int8_t* weights, int64_t plane_stride) {
  transform_vectors<Stride1, Bytes>(kernels, size, weights, plane_stride);
}

void Dpbusd::transform_input(const PatchRow& row, int64_t channels, int32_t data_offset, uint8_t* data,
                             int64_t patch_stride, int64_t plane_stride) {
  transform_channels<Stride1, Bytes>(row, channels, data_offset, data, patch_stride, plane_stride);
}

void Dpbusd::multiply(int64_t, const Product<uint8_t, int8_t>& product) const {
  multiply_dot<tile_rows, VnniDot>(product);
}

}  // namespace qstep::kernels::winograd::avx512vnni
QSTEP_AVX512VNNI_END
#endif
