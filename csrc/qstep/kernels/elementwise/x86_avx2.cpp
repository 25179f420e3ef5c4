#include "qstep/kernels/x86_avx2.h"

#include "qstep/core/grid.h"
#include "qstep/kernels/elementwise/kernels.h"
#include "qstep/kernels/elementwise/runs.h"

#if defined(__x86_64__)
QSTEP_AVX2_BEGIN
namespace qstep::kernels {
namespace {

using namespace avx2;

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
  // Half of the pieces in which the planes of an image are read by turns: the CPU does not foresee a plane's next piece.
  constexpr int64_t distance = 2048;
  const Quantizer quantizer(grid);
  const __m128i zero_point = _mm_set1_epi16(static_cast<int16_t>(grid.zero_point));
  __m256 unordered = _mm256_setzero_ps();
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    _mm_prefetch(reinterpret_cast<const char*>(input + i + distance), _MM_HINT_T0);
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
