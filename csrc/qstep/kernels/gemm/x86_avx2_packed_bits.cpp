#include "qstep/kernels/gemm/x86_avx2_packed_bits.h"

#include <algorithm>
#include <cstring>

#include "qstep/core/error.h"
#include "qstep/kernels/gemm/pack_panels.h"
#include "qstep/kernels/weight_factor.h"
#include "qstep/kernels/x86_avx2.h"

#if defined(__x86_64__)
namespace qstep::kernels::avx2 {
namespace {

// Longer ones gain nothing. Two groups always fit: 255 * 2 * (2 * 2 * 15) < 2^15, and so for two bits.
constexpr int longest_window = 16;

}  // namespace

template <int bits>
bool PackedBits16<bits>::supports(const GemmProblem& problem) {
  auto [smallest, largest] = std::ranges::minmax(problem.weights);
  if (problem.sums() > 1) {  // zeros stand where there are no columns (panel_gemm.h)
    smallest = std::min<int16_t>(smallest, 0);
    largest = std::max<int16_t>(largest, 0);
  }
  return largest - smallest < 1 << bits;
}

template <int bits>
PackedBits16<bits>::PackedBits16(const GemmProblem& problem, int64_t groups)
    : offset_(std::ranges::min(problem.weights)), groups_(ceil_divide(problem.depth, depth_step)) {
  require(supports(problem), "gemm: these weights do not fit {} bits", bits);
  std::vector<int16_t> from_zero(problem.weights.begin(), problem.weights.end());
  for (int16_t& w : from_zero) w = static_cast<int16_t>(w - offset_);
  GemmProblem unsigned_problem = problem;
  unsigned_problem.weights = from_zero;
  AlignedVector<int8_t> expanded;
  pack_panels<step_depth>(unsigned_problem, groups, groups_ * group_steps, expanded);

  weights_.resize(expanded.size() / group_steps, 0);
  for (size_t i = 0; i < expanded.size(); ++i) {
    const size_t step = i / step_weights;
    weights_[step / group_steps * step_weights + i % step_weights] |=
        static_cast<uint8_t>(expanded[i] << step % group_steps * bits);
  }
  const auto panel_size = static_cast<size_t>(groups_) * group_steps * step_weights;
  for (size_t start = 0; start < expanded.size(); start += panel_size) {
    windows_.push_back(
        longest_constant_window({expanded.data() + start, panel_size}, problem.quant_max, group_steps, longest_window));
  }
}

template <int bits>
void PackedBits16<bits>::stage(const uint8_t* input, int64_t count, uint8_t* output) {
  std::memcpy(output, input, static_cast<size_t>(count));
}

bool PackedBytes::supports(const GemmProblem& problem) {
  constexpr double cost = 0.65;  // in that of Madd16, as that of Maddubs16
  return fit<int8_t>(problem.weights) && Maddubs16::relative_cost(problem) > cost;
}

PackedBytes::PackedBytes(const GemmProblem& problem, int64_t groups) : steps_(ceil_divide(problem.depth, depth_step)) {
  require(fit<int8_t>(problem.weights), "gemm: weights must be in [-128, 127]");
  AlignedVector<int8_t> weights;  // [panels * steps * pairs][tile_columns][2]
  pack_panels<2>(problem, groups, steps_ * pairs, weights);
  constexpr size_t half = size_t{2} * half_columns;
  for (size_t start = 0; start < weights.size(); start += 2 * half) {
    for (size_t i = start; i < start + half; ++i) {
      lanes_.push_back(static_cast<int16_t>(256 * weights[i + half] + weights[i] + 128));
    }
  }
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
int32_t sum_codes(const uint8_t* row, const int32_t* steps, int64_t count) {
  const __m256i zero = _mm256_setzero_si256();
  __m256i sums = zero;
  int64_t s = 0;
  for (constexpr int run = vector_bytes / step_codes; s + run <= count; s += run) {
    sums = _mm256_add_epi64(sums, _mm256_sad_epu8(load(row + steps[s]), zero));
  }
  int32_t sum = sum_lanes(sums);  // in every second one: below 2^31
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

template <int bits, int rows>
void multiply_packed_bits(const TileInput<uint8_t>& input, const uint8_t* panel, int64_t groups, int64_t window,
                          int32_t offset, const int32_t* bias, int32_t* tile) {
  const __m256i ones = _mm256_set1_epi16(1);
  const int32_t* step = input.steps;
  const uint8_t* row[rows];
  unroll<rows>([&](auto r) QSTEP_INLINE {
    row[r] = input.row[r];
    const int32_t codes = sum_codes<PackedBits16<bits>::depth_step>(row[r], step, groups);
    const auto offsets = static_cast<int32_t>(static_cast<uint32_t>(offset) * static_cast<uint32_t>(codes));
    store(tile + r * tile_columns, _mm256_add_epi32(load(bias), _mm256_set1_epi32(offsets)));
    store(tile + r * tile_columns + half_columns,
          _mm256_add_epi32(load(bias + half_columns), _mm256_set1_epi32(offsets)));
  });
  for (int64_t rest = groups; rest > 0; rest -= window) {
    __m256i left[rows];
    __m256i right[rows];
    unroll<rows>([&](auto r) QSTEP_INLINE { left[r] = right[r] = _mm256_setzero_si256(); });
    const auto add_step = [&](auto s) QSTEP_INLINE {
      const __m256i left_weights = weights_of_step<bits, s>(load(panel));
      const __m256i right_weights = weights_of_step<bits, s>(load(panel + half_weights));
      unroll<rows>([&](auto r) QSTEP_INLINE {
        const __m256i codes = broadcast_4_bytes(row[r] + *step + s * step_depth);
        add_int16(left[r], _mm256_maddubs_epi16(codes, left_weights));
        add_int16(right[r], _mm256_maddubs_epi16(codes, right_weights));
      });
    };
    for (int64_t g = std::min(rest, window); g > 0; --g) {
      prefetch_weights(panel);
      add_step(std::integral_constant<int, 0>{});
      add_step(std::integral_constant<int, 1>{});
      if constexpr (bits == 2) {
        add_step(std::integral_constant<int, 2>{});
        add_step(std::integral_constant<int, 3>{});
      }
      ++step;
      panel += step_weights;
    }
    unroll<rows>([&](auto r) QSTEP_INLINE {
      int32_t* left_half = tile + r * tile_columns;
      int32_t* right_half = left_half + half_columns;
      store(left_half, _mm256_add_epi32(load(left_half), _mm256_madd_epi16(left[r], ones)));
      store(right_half, _mm256_add_epi32(load(right_half), _mm256_madd_epi16(right[r], ones)));
    });
  }
}

}  // namespace

template <int bits>
void PackedBits16<bits>::multiply(int64_t panel, int, const TileInput<uint8_t>& input, const int32_t* bias,
                                  int32_t* tile) const {
  const uint8_t* weights = weights_.data() + panel * groups_ * step_weights;
  const int64_t window = windows_[static_cast<size_t>(panel)];
  with_constant<tile_rows>(input.rows, [&](auto r) QSTEP_INLINE {
    multiply_packed_bits<bits, r>(input, weights, groups_, window, offset_, bias, tile);
  });
}

template class PackedBits16<2>;
template class PackedBits16<4>;

namespace {

template <int rows, int panels, int pairs>
void multiply_packed_bytes(const TileInput<int16_t>& input, const int16_t* panel, int64_t steps, const int32_t* bias,
                           int32_t* tile) {
  constexpr int vectors = rows * panels;
  constexpr int lanes_of_step = pairs * 2 * half_columns;
  const __m256i ones = _mm256_set1_epi16(1);
  const int16_t* row[rows];
  __m256i codes[rows];
  __m256i both[vectors];
  __m256i right[vectors];
  unroll<rows>([&](auto r) QSTEP_INLINE {
    row[r] = input.row[r];
    codes[r] = _mm256_setzero_si256();
  });
  unroll<vectors>([&](auto v) QSTEP_INLINE { both[v] = right[v] = _mm256_setzero_si256(); });
  for (int64_t s = 0; s < steps; ++s) {
    const int32_t first_code = input.steps[s];
    unroll<rows>([&](auto r) QSTEP_INLINE {
      codes[r] = _mm256_add_epi32(codes[r], _mm256_madd_epi16(load(row[r] + first_code), ones));
    });
    unroll<pairs>([&](auto pair) QSTEP_INLINE {
      __m256i two_codes[rows];
      unroll<rows>([&](auto r) QSTEP_INLINE { two_codes[r] = broadcast_4_bytes(row[r] + first_code + 2 * pair); });
      unroll<panels>([&](auto p) QSTEP_INLINE {
        const int16_t* weights = panel + p * steps * lanes_of_step + pair * 2 * half_columns;
        const __m256i lanes = load(weights);
        const __m256i right_weights = _mm256_srai_epi16(lanes, 8);
        if constexpr (pair % 2 == 0) prefetch_weights(weights);
        unroll<rows>([&](auto r) QSTEP_INLINE {
          constexpr int v = p * rows + r;
          add_int32(both[v], _mm256_madd_epi16(two_codes[r], lanes));
          add_int32(right[v], _mm256_madd_epi16(two_codes[r], right_weights));
        });
      });
    });
    panel += lanes_of_step;
  }
  unroll<rows>([&](auto r) QSTEP_INLINE {
    const __m256i offset = _mm256_set1_epi32(static_cast<int32_t>(static_cast<uint32_t>(sum_lanes(codes[r])) << 7));
    unroll<panels>([&](auto p) QSTEP_INLINE {
      constexpr int v = p * rows + r;
      const __m256i left = _mm256_sub_epi32(both[v], _mm256_add_epi32(_mm256_slli_epi32(right[v], 8), offset));
      const int32_t* panel_bias = bias + p * tile_columns;
      int32_t* left_half = tile + (p * PackedBytes::tile_rows + r) * tile_columns;
      store(left_half, _mm256_add_epi32(load(panel_bias), left));
      store(left_half + half_columns, _mm256_add_epi32(load(panel_bias + half_columns), right[v]));
    });
  });
}

}  // namespace

void PackedBytes::multiply(int64_t panel, int panels, const TileInput<int16_t>& input, const int32_t* bias,
                           int32_t* tile) const {
  const int16_t* lanes = lanes_.data() + panel * steps_ * pairs * 2 * half_columns;
  with_constant<tile_rows>(input.rows, [&](auto r) QSTEP_INLINE {
    with_constant<tile_panels(r)>(
        panels, [&](auto p) QSTEP_INLINE { multiply_packed_bytes<r, p, pairs>(input, lanes, steps_, bias, tile); });
  });
}

}  // namespace qstep::kernels::avx2
QSTEP_AVX2_END
#endif
