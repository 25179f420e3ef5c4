#include "qstep/kernels/gemm/x86_avx2_packed_bits.h"

#include <algorithm>
#include <numeric>

#include "qstep/core/error.h"
#include "qstep/kernels/gemm/pack_panels.h"
#include "qstep/kernels/weight_factor.h"
#include "qstep/kernels/x86_avx2.h"

#if defined(__x86_64__)
namespace qstep::kernels::avx2 {
namespace {

constexpr int32_t centre = 128;  // of the codes
constexpr int quads = CentredBytes::depth_step / step_depth;

/// centre * (sum of each column's weights), modulo 2^32; [panels][tile_columns].
AlignedVector<int32_t> centre_sums(const GemmProblem& problem, int64_t groups) {
  const int64_t group_columns = problem.columns / groups;
  const int64_t padded_columns = ceil_divide(group_columns, tile_columns) * tile_columns;
  AlignedVector<int32_t> sums(static_cast<size_t>(groups * padded_columns), 0);
  for (int64_t n = 0; n < problem.columns; ++n) {
    const auto weights =
        problem.weights.subspan(static_cast<size_t>(n * problem.depth), static_cast<size_t>(problem.depth));
    sums[static_cast<size_t>(n / group_columns * padded_columns + n % group_columns)] =
        static_cast<int32_t>(centre * std::accumulate(weights.begin(), weights.end(), int64_t{0}));
  }
  return sums;
}

}  // namespace

void CentredCodes::stage(const uint8_t* input, int64_t count, int8_t* output) {
  for (int64_t i = 0; i < count; ++i) output[i] = static_cast<int8_t>(input[i] - centre);
}

template <int bits>
PackedBits16<bits>::PackedBits16(const GemmProblem& problem, int64_t groups)
    : packed_(problem, groups), sums_(centre_sums(problem, groups)) {}

bool CentredBytes::supports(const GemmProblem& problem) { return fit<int8_t>(problem.weights); }

bool CentredBytes::suits(const GemmProblem& problem) {
  constexpr double cost = 0.6;  // in that of Madd16, as that of Maddubs16
  constexpr size_t weights_per_cut = 256;
  return static_cast<size_t>(std::ranges::count(problem.weights, INT8_MIN)) <=
             problem.weights.size() / weights_per_cut &&
         Maddubs16::relative_cost(problem) > cost;
}

CentredBytes::CentredBytes(const GemmProblem& problem, int64_t groups)
    : steps_(ceil_divide(problem.depth, depth_step)), sums_(centre_sums(problem, groups)) {
  require(supports(problem), "gemm: weights must be in [-128, 127]");
  pack_panels<step_depth>(problem, groups, steps_ * quads, weights_);
  const size_t panel_size = static_cast<size_t>(steps_) * quads * step_weights;
  for (size_t start = 0; start < weights_.size(); start += panel_size) {
    std::vector<CutWeight>& cuts = cuts_.emplace_back();
    for (size_t i = 0; i < panel_size; ++i) {
      int8_t& weight = weights_[start + i];
      if (weight != INT8_MIN) continue;
      ++weight;
      cuts.push_back({static_cast<int32_t>(i / step_weights * step_depth + i % step_depth),
                      static_cast<int32_t>(i / step_depth % tile_columns)});
    }
  }
}

size_t CentredBytes::cut_weights() const {
  size_t count = 0;
  for (const auto& cuts : cuts_) count += cuts.size();
  return count;
}

}  // namespace qstep::kernels::avx2

QSTEP_AVX2_BEGIN
namespace qstep::kernels::avx2 {
namespace {

constexpr int vector_bytes = 32;

int32_t sum_lanes(__m256i x) {
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
  return _mm_cvtsi128_si32(two) + _mm_extract_epi32(two, 1);
}

/// The sum of a row's codes, `step_codes` at each of `count` places.
template <int step_codes>
int32_t sum_codes(const int8_t* row, const int32_t* steps, int64_t count) {
  const __m256i zero = _mm256_setzero_si256();
  const __m256i centres = _mm256_set1_epi8(static_cast<char>(centre));
  __m256i from_zero = zero;
  int64_t s = 0;
  for (constexpr int run = vector_bytes / step_codes; s + run <= count; s += run) {
    from_zero = _mm256_add_epi64(from_zero, _mm256_sad_epu8(_mm256_xor_si256(load(row + steps[s]), centres), zero));
  }
  int32_t sum = sum_lanes(from_zero) - centre * static_cast<int32_t>(s * step_codes);
  for (; s < count; ++s) {
    for (int i = 0; i < step_codes; ++i) sum += row[steps[s] + i];
  }
  return sum;
}

/// Step `step` of a group.
template <int bits, int step>
QSTEP_INLINE inline __m256i weights_of_step(__m256i group) {
  return _mm256_and_si256(_mm256_srli_epi16(group, step * bits), _mm256_set1_epi8((1 << bits) - 1));
}

template <int bits, int rows, int panels>
void multiply_packed_bits(const TileInput<int8_t>& input, const PackedBits<bits>& packed, const uint8_t* panel,
                          const int32_t* sums, const int32_t* bias, int32_t* tile) {
  using Arithmetic = PackedBits16<bits>;
  constexpr int halves = 2 * panels;
  const int64_t groups = packed.groups;
  const int64_t panel_size = groups * step_weights;
  const __m256i ones = _mm256_set1_epi16(1);
  const int8_t* row[rows];
  __m256i sum[rows][halves];
  unroll<rows>([&](auto r) QSTEP_INLINE {
    row[r] = input.row[r];
    const __m256i of_row = _mm256_set1_epi32(input.row_parts[r]);
    unroll<halves>([&](auto h) QSTEP_INLINE {
      constexpr int column = h * half_columns;
      sum[r][h] = _mm256_add_epi32(_mm256_add_epi32(load(bias + column), load(sums + column)), of_row);
    });
  });
  const auto add_groups = [&](int32_t first_code, auto count) QSTEP_INLINE {
    __m256i narrow[rows][halves];
    unroll<count>([&](auto group) QSTEP_INLINE {
      unroll<panels>([&](auto p) QSTEP_INLINE { prefetch_weights(panel + p * panel_size); });
      unroll<PackedBits<bits>::group_steps>([&](auto s) QSTEP_INLINE {
        constexpr int step = group * PackedBits<bits>::group_steps + s;
        __m256i codes[rows];
        unroll<rows>([&](auto r)
                         QSTEP_INLINE { codes[r] = broadcast_4_bytes(row[r] + first_code + step * step_depth); });
        unroll<halves>([&](auto h) QSTEP_INLINE {
          const __m256i weights = weights_of_step<bits, s>(load(panel + h / 2 * panel_size + h % 2 * half_weights));
          unroll<rows>([&](auto r) QSTEP_INLINE {
            const __m256i products = _mm256_maddubs_epi16(weights, codes[r]);
            if constexpr (step == 0) {
              narrow[r][h] = products;
            } else {
              add_int16(narrow[r][h], products);
            }
          });
        });
      });
      panel += step_weights;
    });
    unroll<rows>([&](auto r) QSTEP_INLINE {
      unroll<halves>([&](auto h) QSTEP_INLINE { add_int32(sum[r][h], _mm256_madd_epi16(narrow[r][h], ones)); });
    });
  };
  int64_t g = 0;
  for (; g + Arithmetic::window <= groups; g += Arithmetic::window) {
    add_groups(input.steps[g], std::integral_constant<int, Arithmetic::window>{});
  }
  for (; g < groups; ++g) add_groups(input.steps[g], std::integral_constant<int, 1>{});
  unroll<rows>([&](auto r) QSTEP_INLINE {
    unroll<halves>([&](auto h) QSTEP_INLINE {
      store(tile + (h / 2 * Arithmetic::tile_rows + r) * tile_columns + h % 2 * half_columns, sum[r][h]);
    });
  });
}

}  // namespace

template <int bits>
void PackedBits16<bits>::multiply(int64_t panel, int panels, const TileInput<int8_t>& input, const int32_t* bias,
                                  int32_t* tile) const {
  const int32_t* sums = sums_.data() + panel * tile_columns;
  with_constant<tile_rows>(input.rows, [&](auto r) QSTEP_INLINE {
    with_constant<tile_panels(r)>(panels, [&](auto p) QSTEP_INLINE {
      multiply_packed_bits<bits, r, p>(input, packed_, packed_.panel(panel), sums, bias, tile);
    });
  });
}

template <int bits>
void PackedBits16<bits>::row_parts(std::span<const int8_t* const> rows, const int32_t* steps, int32_t* parts) const {
  for (const int8_t* row : rows) {
    *parts++ = static_cast<int32_t>(int64_t{packed_.offset} * sum_codes<depth_step>(row, steps, packed_.groups));
  }
}

template class PackedBits16<2>;
template class PackedBits16<4>;

namespace {

template <int rows>
void multiply_centred_bytes(const TileInput<int8_t>& input, const int8_t* panel, int64_t steps, const int32_t* sums,
                            const int32_t* bias, int32_t* tile) {
  const __m256i ones = _mm256_set1_epi16(1);
  const int8_t* row[rows];
  __m256i sum[rows][2];
  unroll<rows>([&](auto r) QSTEP_INLINE {
    row[r] = input.row[r];
    unroll<2>([&](auto half) QSTEP_INLINE {
      constexpr int column = half * half_columns;
      sum[r][half] = _mm256_add_epi32(load(bias + column), load(sums + column));
    });
  });
  for (int64_t s = 0; s < steps; ++s) {
    const int32_t first_code = input.steps[s];
    unroll<quads>([&](auto quad) QSTEP_INLINE {
      const int8_t* weights = panel + quad * step_weights;
      prefetch_weights(weights);
      unroll<rows>([&](auto r) QSTEP_INLINE {
        const __m256i codes = broadcast_4_bytes(row[r] + first_code + quad * step_depth);
        const __m256i magnitudes = _mm256_abs_epi8(codes);
        unroll<2>([&](auto half) QSTEP_INLINE {
          const __m256i signed_weights = _mm256_sign_epi8(load(weights + half * half_weights), codes);
          add_int32(sum[r][half], _mm256_madd_epi16(_mm256_maddubs_epi16(magnitudes, signed_weights), ones));
        });
      });
    });
    panel += quads * step_weights;
  }
  unroll<rows>([&](auto r) QSTEP_INLINE {
    store(tile + r * tile_columns, sum[r][0]);
    store(tile + r * tile_columns + half_columns, sum[r][1]);
  });
}

}  // namespace

void CentredBytes::multiply(int64_t panel, int, const TileInput<int8_t>& input, const int32_t* bias,
                            int32_t* tile) const {
  const int8_t* weights = weights_.data() + panel * steps_ * quads * step_weights;
  const int32_t* sums = sums_.data() + panel * tile_columns;
  with_constant<tile_rows>(input.rows, [&](auto rows) QSTEP_INLINE {
    multiply_centred_bytes<rows>(input, weights, steps_, sums, bias, tile);
  });
  for (const CutWeight& cut : cuts_[static_cast<size_t>(panel)]) {
    const int32_t place = input.steps[cut.k / depth_step] + cut.k % depth_step;
    for (int r = 0; r < input.rows; ++r) {
      int32_t& sum = tile[r * tile_columns + cut.column];
      sum = static_cast<int32_t>(int64_t{sum} - input.row[r][place]);
    }
  }
}

}  // namespace qstep::kernels::avx2
QSTEP_AVX2_END
#endif
