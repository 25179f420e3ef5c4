#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "qstep/core/grid.h"
#include "qstep/kernels/elementwise/kernels.h"
#include "qstep/kernels/x86_avx2.h"
#include "qstep/kernels/x86_avx2_shift.h"

#if defined(__x86_64__)
namespace qstep::kernels {
namespace {

/// body(image, row, column, values) for the runs of contiguous values of work items: whole rows where `whole_rows`,
/// else pixels.
template <class Body>
void for_each_run(const ImageLayout& layout, Range items, bool whole_rows, Body body) {
  if (layout.width * layout.channels == 0) return;
  for (int64_t item = items.begin; item < items.end; ++item) {
    const int64_t image = item / layout.height;
    const int64_t row = item % layout.height;
    if (whole_rows) {
      body(image, row, int64_t{0}, layout.width * layout.channels);
    } else {
      for (int64_t column = 0; column < layout.width; ++column) body(image, row, column, layout.channels);
    }
  }
}

bool has_dense_rows(const ImageLayout& layout) { return layout.pixel_stride == layout.channels; }

}  // namespace
}  // namespace qstep::kernels

QSTEP_AVX2_BEGIN
namespace qstep::kernels {
namespace {

using namespace avx2;

// --- bilinear ------------------------------------------------------------------------------------

/// BilinearProblem in doubles: every value before the division by 2^shift is an integer below 2^53, that division only
/// moves the exponent, and the conversion to int32 is the one rounding.
template <bool multiplies>
struct Bilinear {
  __m256d product;
  __m256d left;
  __m256d right;
  __m256d constant;
  __m256d unit;  // 2^-shift
  __m256d low;
  __m256d high;
  __m128i zero_code_a;
  __m128i zero_code_b;
  __m128i zero_point;

  explicit Bilinear(const BilinearProblem& p)
      : product(_mm256_set1_pd(static_cast<double>(p.product))),
        left(_mm256_set1_pd(static_cast<double>(p.left))),
        right(_mm256_set1_pd(static_cast<double>(p.right))),
        constant(_mm256_set1_pd(static_cast<double>(p.constant))),
        unit(_mm256_set1_pd(std::ldexp(1.0, -p.shift))),
        low(_mm256_set1_pd(p.clamp_min - p.zero_point)),
        high(_mm256_set1_pd(p.clamp_max - p.zero_point)),
        zero_code_a(_mm_set1_epi32(p.zero_code_a)),
        zero_code_b(_mm_set1_epi32(p.zero_code_b)),
        zero_point(_mm_set1_epi16(static_cast<int16_t>(p.zero_point))) {}

  QSTEP_INLINE static __m256d centred(__m128i codes, __m128i zero_code) {
    return _mm256_cvtepi32_pd(_mm_sub_epi32(_mm_cvtepu8_epi32(codes), zero_code));
  }

  /// The low four bytes of each.
  QSTEP_INLINE __m128i four(__m128i a_codes, __m128i b_codes) const {
    const __m256d a = centred(a_codes, zero_code_a);
    const __m256d b = centred(b_codes, zero_code_b);
    __m256d t = _mm256_add_pd(_mm256_add_pd(_mm256_mul_pd(left, a), _mm256_mul_pd(right, b)), constant);
    if constexpr (multiplies) t = _mm256_add_pd(t, _mm256_mul_pd(product, _mm256_mul_pd(a, b)));
    return _mm256_cvtpd_epi32(_mm256_min_pd(_mm256_max_pd(_mm256_mul_pd(t, unit), low), high));
  }

  QSTEP_INLINE __m128i sixteen(__m128i a, __m128i b) const {
    return pack_codes(four(a, b), four(_mm_srli_si128(a, 4), _mm_srli_si128(b, 4)),
                      four(_mm_srli_si128(a, 8), _mm_srli_si128(b, 8)),
                      four(_mm_srli_si128(a, 12), _mm_srli_si128(b, 12)), zero_point);
  }
};

/// The same for an addition of shifted operands, in int32: 255 * (2^22 + 2^22) < 2^31.
struct ShiftedSum {
  __m128i left;
  __m128i right;
  ShiftHalfEven rounded;
  Limits limits;
  __m256i zero_code_a;
  __m256i zero_code_b;
  __m128i zero_point;

  explicit ShiftedSum(const BilinearProblem& p)
      : left(_mm_cvtsi32_si128(std::countr_zero(static_cast<uint64_t>(p.left)))),
        right(_mm_cvtsi32_si128(std::countr_zero(static_cast<uint64_t>(p.right)))),
        rounded(p.shift),
        limits{_mm256_set1_epi32(p.clamp_min - p.zero_point), _mm256_set1_epi32(p.clamp_max - p.zero_point)},
        zero_code_a(_mm256_set1_epi32(p.zero_code_a)),
        zero_code_b(_mm256_set1_epi32(p.zero_code_b)),
        zero_point(_mm_set1_epi16(static_cast<int16_t>(p.zero_point))) {}

  /// The low eight bytes of each.
  QSTEP_INLINE __m256i eight(__m128i a_codes, __m128i b_codes) const {
    const __m256i a = _mm256_sub_epi32(_mm256_cvtepu8_epi32(a_codes), zero_code_a);
    const __m256i b = _mm256_sub_epi32(_mm256_cvtepu8_epi32(b_codes), zero_code_b);
    return limits(rounded(_mm256_add_epi32(_mm256_sll_epi32(a, left), _mm256_sll_epi32(b, right))));
  }

  QSTEP_INLINE __m128i sixteen(__m128i a, __m128i b) const {
    const __m256i low = eight(a, b);
    const __m256i high = eight(_mm_srli_si128(a, 8), _mm_srli_si128(b, 8));
    return pack_codes(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1), _mm256_castsi256_si128(high),
                      _mm256_extracti128_si256(high, 1), zero_point);
  }
};

/// The first `count` bytes, count < 16.
__m128i load_part(const uint8_t* p, int64_t count) {
  alignas(16) uint8_t bytes[16] = {};
  std::memcpy(bytes, p, static_cast<size_t>(count));
  return load_half(bytes);
}

void store_part(uint8_t* p, __m128i x, int64_t count) {
  alignas(16) uint8_t bytes[16];
  store_half(bytes, x);
  std::memcpy(p, bytes, static_cast<size_t>(count));
}

template <bool repeats_b, class Arithmetic>
void bilinear_run(const Arithmetic& arithmetic, const uint8_t* a, const uint8_t* b, uint8_t* output, int64_t count) {
  const __m128i repeated = _mm_set1_epi8(static_cast<char>(*b));
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    store_half(output + i, arithmetic.sixteen(load_half(a + i), repeats_b ? repeated : load_half(b + i)));
  }
  if (const int64_t rest = count - i; rest > 0) {
    store_part(output + i, arithmetic.sixteen(load_part(a + i, rest), repeats_b ? repeated : load_part(b + i, rest)),
               rest);
  }
}

template <class Arithmetic>
void bilinear(const Arithmetic& arithmetic, const BilinearArguments& arguments, Range items) {
  const ImageLayout& b_layout = arguments.b_layout;
  const bool repeats_b = arguments.b_channel_stride == 0;
  const bool b_has_runs =
      repeats_b ? b_layout.pixel_stride == 0 : b_layout.pixel_stride == arguments.output_layout.channels;
  const bool whole_rows = has_dense_rows(arguments.a_layout) && has_dense_rows(arguments.output_layout) && b_has_runs;
  const auto run = repeats_b ? bilinear_run<true, Arithmetic> : bilinear_run<false, Arithmetic>;
  for_each_run(arguments.output_layout, items, whole_rows,
               [&](int64_t image, int64_t row, int64_t column, int64_t count) {
                 run(arithmetic, arguments.a + arguments.a_layout.offset(image, row, column),
                     arguments.b + b_layout.offset(image, row, column),
                     arguments.output + arguments.output_layout.offset(image, row, column), count);
               });
}

// --- lookup --------------------------------------------------------------------------------------

/// The table in blocks of sixteen entries, each looked up by vpshufb. An index of another block has its high bit set by
/// then (0x70 is added with saturation to index - first of block), for which vpshufb gives 0; the results are or-ed.
template <int blocks>
void lookup_run(const uint8_t* table, const uint8_t* input, uint8_t* output, int64_t count) {
  const auto look_up = [&](__m256i index) QSTEP_INLINE {
    __m256i result = _mm256_setzero_si256();
    unroll<blocks>([&](auto block) QSTEP_INLINE {
      const __m256i entries = _mm256_broadcastsi128_si256(load_half(table + 16 * block));
      const __m256i in_block = _mm256_sub_epi8(index, _mm256_set1_epi8(static_cast<char>(16 * block)));
      result =
          _mm256_or_si256(result, _mm256_shuffle_epi8(entries, _mm256_adds_epu8(in_block, _mm256_set1_epi8(0x70))));
    });
    return result;
  };
  int64_t i = 0;
  for (; i + 32 <= count; i += 32) store(output + i, look_up(load(input + i)));
  for (; i < count; ++i) output[i] = table[input[i]];
}

// --- quantize ------------------------------------------------------------------------------------

/// core::quantize of eight values, before the zero point: exactly its operations, eight at a time.
struct Quantizer {
  __m256 scale;
  __m256 offset;
  __m256 low;
  __m256 high;

  explicit Quantizer(const core::Grid& grid)
      : scale(_mm256_set1_ps(grid.scale)),
        offset(_mm256_set1_ps(grid.offset)),
        low(_mm256_set1_ps(static_cast<float>(grid.quant_min - grid.zero_point))),
        high(_mm256_set1_ps(static_cast<float>(grid.quant_max - grid.zero_point))) {}

  QSTEP_INLINE __m256i eight(__m256 x) const {
    const __m256 quotient = _mm256_div_ps(_mm256_sub_ps(x, offset), scale);
    const __m256 rounded = _mm256_round_ps(quotient, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm256_cvtps_epi32(
        _mm256_min_ps(_mm256_max_ps(rounded, low), high));  // max takes its second operand for NaN
  }
};

}  // namespace

void bilinear_avx2(const BilinearProblem& problem, const BilinearArguments& arguments, Range items) {
  if (problem.product != 0) {
    bilinear(Bilinear<true>(problem), arguments, items);
  } else {
    bilinear(Bilinear<false>(problem), arguments, items);
  }
}

void bilinear_shift_avx2(const BilinearProblem& problem, const BilinearArguments& arguments, Range items) {
  bilinear(ShiftedSum(problem), arguments, items);
}

void lookup_avx2(const LookupProblem& problem, const LookupArguments& arguments, Range items) {
  const int blocks = (problem.entries + 15) / 16;
  const auto run = blocks == 1   ? lookup_run<1>
                   : blocks <= 4 ? lookup_run<4>
                   : blocks <= 8 ? lookup_run<8>
                                 : lookup_run<16>;
  const bool whole_rows = has_dense_rows(arguments.input_layout) && has_dense_rows(arguments.output_layout);
  for_each_run(arguments.output_layout, items, whole_rows,
               [&](int64_t image, int64_t row, int64_t column, int64_t count) {
                 run(problem.table.data(), arguments.input + arguments.input_layout.offset(image, row, column),
                     arguments.output + arguments.output_layout.offset(image, row, column), count);
               });
}

bool quantize_avx2(const float* input, int64_t count, const core::Grid& grid, uint8_t* output, int64_t output_stride) {
  const Quantizer quantizer(grid);
  const __m128i zero_point = _mm_set1_epi16(static_cast<int16_t>(grid.zero_point));
  __m256 unordered = _mm256_setzero_ps();
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m256 x0 = _mm256_loadu_ps(input + i);
    const __m256 x1 = _mm256_loadu_ps(input + i + 8);
    unordered = _mm256_or_ps(unordered, _mm256_cmp_ps(x0, x1, _CMP_UNORD_Q));
    const __m256i q0 = quantizer.eight(x0);
    const __m256i q1 = quantizer.eight(x1);
    const __m128i codes = pack_codes(_mm256_castsi256_si128(q0), _mm256_extracti128_si256(q0, 1),
                                     _mm256_castsi256_si128(q1), _mm256_extracti128_si256(q1, 1), zero_point);
    if (output_stride == 1) {
      store_half(output + i, codes);
    } else {
      alignas(16) uint8_t lanes[16];
      store_half(lanes, codes);
      for (int lane = 0; lane < 16; ++lane) output[(i + lane) * output_stride] = lanes[lane];
    }
  }
  const bool rest_valid = quantize_reference(input + i, count - i, grid, output + i * output_stride, output_stride);
  return rest_valid && _mm256_movemask_ps(unordered) == 0;
}

void dequantize_avx2(const uint8_t* input, int64_t input_stride, int64_t count, const core::Grid& grid, float* output) {
  if (input_stride != 1) return dequantize_reference(input, input_stride, count, grid, output);
  const __m256 scale = _mm256_set1_ps(grid.scale);
  const __m256 offset = _mm256_set1_ps(grid.offset);
  const __m256i zero_point = _mm256_set1_epi32(grid.zero_point);
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256i codes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(input + i)));
    const __m256 steps = _mm256_cvtepi32_ps(_mm256_sub_epi32(codes, zero_point));
    _mm256_storeu_ps(output + i, _mm256_add_ps(_mm256_mul_ps(scale, steps), offset));
  }
  dequantize_reference(input + i, 1, count - i, grid, output + i);
}

void dequantize_accumulators_avx2(const int32_t* input, int64_t input_stride, int64_t count, double scale,
                                  float* output) {
  if (input_stride != 1) return dequantize_accumulators_reference(input, input_stride, count, scale, output);
  const __m256d factor = _mm256_set1_pd(scale);
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    _mm_storeu_ps(output + i, _mm256_cvtpd_ps(_mm256_mul_pd(factor, _mm256_cvtepi32_pd(load_half(input + i)))));
  }
  dequantize_accumulators_reference(input + i, 1, count - i, scale, output + i);
}

}  // namespace qstep::kernels
QSTEP_AVX2_END
#endif
