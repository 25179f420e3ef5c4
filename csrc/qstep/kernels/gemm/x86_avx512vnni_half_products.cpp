#include "qstep/kernels/gemm/x86_avx512vnni_half_products.h"

#include <algorithm>
#include <cstring>

#include "qstep/core/error.h"
#include "qstep/kernels/gemm/pack_panels.h"
#include "qstep/kernels/gemm/x86_avx512_finish.h"
#include "qstep/kernels/x86_avx512.h"

#if defined(__x86_64__)
namespace qstep::kernels::avx512vnni {
namespace {

constexpr int pair_distance = 4;               // of depth, from a code of a pair to the other
constexpr int quad_depth = 2 * pair_distance;  // of a vpdpbusd
constexpr int quads = HalfProducts::depth_step / quad_depth;
constexpr int vector_bytes = 64;

struct Interval {
  int32_t low;
  int32_t high;
};

/// Zero, which pads panels, among them.
Interval weight_range(const GemmProblem& problem) {
  const auto [low, high] = std::ranges::minmax(problem.weights);
  return {std::min<int32_t>(low, 0), std::max<int32_t>(high, 0)};
}

}  // namespace

bool HalfProducts::supports(const GemmProblem& problem) {
  const Interval range = weight_range(problem);
  return int64_t{problem.quant_max} + range.high - range.low <= 255;
}

bool HalfProducts::suits(const GemmProblem& problem) {
  // Else what a row's own products and the larger epilogue of a tile cost is not saved.
  constexpr int64_t fewest_columns = 64;
  constexpr int64_t least_depth = 96;
  return adds_beside_products() && problem.columns >= fewest_columns && problem.depth >= least_depth &&
         problem.depth % depth_step == 0;
}

HalfProducts::HalfProducts(const GemmProblem& problem, int64_t groups)
    : steps_(ceil_divide(problem.depth, depth_step)) {
  const Interval range = weight_range(problem);
  require(supports(problem), "gemm: codes up to {} and weights in [{}, {}] share no byte", problem.quant_max, range.low,
          range.high);
  first_offset_ = -range.low;
  second_offset_ = -128 - range.low;
  AlignedVector<int8_t> packed;
  pack_panels<quad_depth>(problem, groups, steps_ * quads, packed);
  weights_.resize(packed.size());
  corrections_.resize(packed.size() / static_cast<size_t>(steps_ * depth_step), 0);
  for (size_t i = 0; i < corrections_.size(); ++i) {
    const size_t panel = i / tile_columns;
    const size_t column = i % tile_columns;
    for (size_t quad = 0; quad < static_cast<size_t>(steps_ * quads); ++quad) {
      const size_t at = (panel * static_cast<size_t>(steps_ * quads) + quad) * tile_columns * quad_depth;
      const int8_t* from = &packed[at + column * quad_depth];
      uint8_t* to = &weights_[at + column * pair_distance];
      for (int k = 0; k < pair_distance; ++k) {
        const int32_t first = from[k + pair_distance] + first_offset_;
        const int32_t second = from[k] + second_offset_;
        to[k] = static_cast<uint8_t>(first);
        to[vector_bytes + k] = static_cast<uint8_t>(second);
        corrections_[i] -= first * second - first_offset_ * second_offset_;
      }
    }
  }
}

void HalfProducts::stage(const uint8_t* input, int64_t count, uint8_t* output) {
  std::memcpy(output, input, static_cast<size_t>(count));
}

}  // namespace qstep::kernels::avx512vnni

QSTEP_AVX512VNNI_BEGIN
namespace qstep::kernels::avx512vnni {
namespace {

template <int rows, int panels, class Finish>
QSTEP_NOINLINE void multiply_tile(const TileInput<uint8_t>& input, const uint8_t* weights, int64_t steps,
                                  const int32_t* corrections, const int32_t* bias, const Finish& finish) {
  constexpr int quad_bytes = tile_columns * quad_depth;
  const int64_t panel_size = steps * quads * quad_bytes;
  const uint8_t* row[rows];
  __m512i sum[rows][panels];
  unroll<rows>([&](auto r) QSTEP_INLINE {
    row[r] = input.row[r];
    unroll<panels>([&](auto p) QSTEP_INLINE {
      const __m512i of_column = _mm512_add_epi32(load(bias + p * tile_columns), load(corrections + p * tile_columns));
      sum[r][p] = _mm512_add_epi32(of_column, _mm512_set1_epi32(input.row_parts[r]));
    });
  });
  for (int64_t s = 0; s < steps; ++s) {
    const int32_t offset = input.steps[s];
    unroll<quads>([&](auto quad) QSTEP_INLINE {
      __m512i first[panels];
      __m512i second[panels];
      unroll<panels>([&](auto p) QSTEP_INLINE {
        first[p] = load(weights + p * panel_size);
        second[p] = load(weights + p * panel_size + vector_bytes);
      });
      unroll<rows>([&](auto r) QSTEP_INLINE {
        const uint8_t* codes = row[r] + offset + quad * quad_depth;
        const __m512i x = broadcast_4_bytes(codes);
        const __m512i y = broadcast_4_bytes(codes + pair_distance);
        unroll<panels>([&](auto p) QSTEP_INLINE {
          sum[r][p] = _mm512_dpbusd_epi32(sum[r][p], _mm512_add_epi8(x, first[p]), _mm512_add_epi8(y, second[p]));
          keep_in_register(sum[r][p]);
        });
      });
      weights += quad_bytes;
    });
  }
  finish(sum);
}

}  // namespace

/// Minus the products of the codes of each pair.
void HalfProducts::row_parts(std::span<const uint8_t* const> rows, const int32_t* steps, int32_t* parts) const {
  constexpr int at_once = 4;
  const auto count = static_cast<int>(rows.size());
  constexpr __mmask32 firsts = 0x0F0F0F0F;
  const __m256i first_offsets = _mm256_set1_epi8(static_cast<char>(first_offset_));
  const __m256i second_offsets = _mm256_set1_epi8(static_cast<char>(second_offset_));
  for (int r = 0; r < count; r += at_once) {
    const uint8_t* row[at_once];
    __m256i sum[at_once];  // in even lanes
    unroll<at_once>([&](auto i) QSTEP_INLINE {
      row[i] = rows[static_cast<size_t>(std::min(r + i, count - 1))];
      sum[i] = _mm256_setzero_si256();
    });
    for (int64_t s = 0; s < steps_; ++s) {
      unroll<at_once>([&](auto i) QSTEP_INLINE {
        const __m256i codes = avx2::load(row[i] + steps[s]);
        const __m256i first = _mm256_maskz_add_epi8(firsts, codes, first_offsets);
        const __m256i second = _mm256_add_epi8(_mm256_srli_epi64(codes, 8 * pair_distance), second_offsets);
        sum[i] = _mm256_dpbusd_epi32(sum[i], first, second);
      });
    }
    const __m256i low = _mm256_blend_epi32(sum[0], _mm256_slli_epi64(sum[1], 32), 0xAA);
    const __m256i high = _mm256_blend_epi32(sum[2], _mm256_slli_epi64(sum[3], 32), 0xAA);
    const __m256i half = _mm256_add_epi32(_mm256_unpacklo_epi64(low, high), _mm256_unpackhi_epi64(low, high));
    const __m128i all = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    const auto inside = static_cast<__mmask8>((1U << std::min(count - r, at_once)) - 1);
    _mm_mask_storeu_epi32(parts + r, inside, _mm_sub_epi32(_mm_setzero_si128(), all));
  }
}

template <class Finish>
void HalfProducts::multiply(int64_t panel, int panels, const TileInput<uint8_t>& input, const int32_t* bias,
                            Finish finish) const {
  avx2::with_constant<tile_rows>(input.rows, [&](auto rows) {
    for (int done = 0; panels > 0; panels -= done, panel += done, bias += done * tile_columns, finish.skip(done)) {
      done = std::min(panels, tile_panels(rows));
      avx2::with_constant<tile_panels(rows)>(done, [&](auto count) {
        multiply_tile<rows, count>(input, weights_.data() + panel * steps_ * depth_step * tile_columns, steps_,
                                   corrections_.data() + panel * tile_columns, bias, finish);
      });
    }
  });
}

void HalfProducts::multiply(int64_t panel, int panels, const TileInput<uint8_t>& input, const int32_t* bias,
                            int32_t* tile) const {
  multiply(panel, panels, input, bias, StoreTile<tile_rows>{tile});
}

void HalfProducts::multiply_and_finish(int64_t panel, int panels, const TileInput<uint8_t>& input, const int32_t* bias,
                                       const Epilogue& epilogue, const AccumulatorTile& tile,
                                       const Output& output) const {
  with_store_codes(epilogue, tile, output.codes, [&](auto finish) { multiply(panel, panels, input, bias, finish); });
}

}  // namespace qstep::kernels::avx512vnni
QSTEP_AVX512VNNI_END
#endif
