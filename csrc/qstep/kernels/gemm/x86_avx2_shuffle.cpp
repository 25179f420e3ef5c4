#include "qstep/kernels/gemm/x86_avx2_shuffle.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>
#include <span>

#include "qstep/core/error.h"
#include "qstep/kernels/gemm/pack_panels.h"
#include "qstep/kernels/gemm/x86_avx2.h"
#include "qstep/kernels/gemm/x86_avx2_finish.h"
#include "qstep/kernels/x86_avx2.h"

#if defined(__x86_64__)
namespace qstep::kernels::avx2 {
namespace {

constexpr int weight_bits = 2;
constexpr int weight_levels = 1 << weight_bits;
constexpr int table_bits = 2 * weight_bits;
constexpr int table_size = 1 << table_bits;
constexpr int most_codes = 16;  // of a grid
constexpr int pair = 2;
constexpr int step_pairs = Shuffle8::depth_step / pair;
constexpr int vector_panels = 2;  // whose columns alternate in a vector of bytes
constexpr int block_panels = Shuffle8::tile_panels(1);

// Measured on layers, in units of one step of 4 with vpmaddwd on a tile of 6 rows and 16 columns.
constexpr double cost_of_staging = 0.2;  // of a step, whatever the number of columns
constexpr double cost_of_narrow_step = 0.42 * 2 * vector_panels;
constexpr double cost_of_wide_step = 0.24 * 2 * block_panels;
constexpr double cost_of_window = 0.25 * block_panels;
constexpr double cost_of_panel = 0.6;

int16_t lowest_level(std::span<const int16_t> weights) { return std::min<int16_t>(std::ranges::min(weights), 0); }

bool is_possible(const GemmProblem& problem) {
  return problem.sums() == 1 && problem.quant_max < most_codes &&
         std::max<int16_t>(std::ranges::max(problem.weights), 0) - lowest_level(problem.weights) < weight_levels;
}

/// All entries of a column's depth, at their largest, must fit 16 bits.
bool fits_16_bits(const GemmProblem& problem) {
  for (size_t k = 0; k < problem.weights.size(); k += static_cast<size_t>(problem.depth)) {
    int64_t sum = 0;
    for (const int16_t w : problem.weights.subspan(k, static_cast<size_t>(problem.depth))) sum += std::abs(w);
    if (problem.quant_max * sum > UINT16_MAX) return false;
  }
  return true;
}

/// Lengths of the longest windows that cover `columns` neighbouring columns; none where a step alone is too much.
std::vector<int32_t> cut_windows(const GemmProblem& problem, int64_t first_column, int64_t columns) {
  const int32_t largest = UINT8_MAX / problem.quant_max;
  std::array<int32_t, block_panels * tile_columns> window{};
  std::vector<int32_t> lengths{0};
  for (int64_t first = 0; first < problem.depth; first += Shuffle8::depth_step) {
    const int64_t end = std::min(first + Shuffle8::depth_step, problem.depth);
    std::array<int32_t, block_panels * tile_columns> step{};
    for (int64_t n = 0; n < columns; ++n) {
      const int16_t* weights = problem.weights.data() + (first_column + n) * problem.depth;
      for (int64_t k = first; k < end; ++k) step[static_cast<size_t>(n)] += std::abs(weights[k]);
    }
    if (std::ranges::max(step) > largest) return {};
    std::ranges::transform(window, step, window.begin(), std::plus{});
    if (std::ranges::max(window) > largest) {
      lengths.push_back(0);
      window = step;
    }
    ++lengths.back();
  }
  return lengths;
}

/// Windows of [groups][blocks].
std::vector<std::vector<int32_t>> cut_all_windows(const GemmProblem& problem, int64_t groups) {
  constexpr int64_t block_columns = block_panels * tile_columns;
  const int64_t group_columns = problem.columns / groups;
  std::vector<std::vector<int32_t>> windows;
  for (int64_t group = 0; group < groups; ++group) {
    for (int64_t n = 0; n < group_columns; n += block_columns) {
      windows.push_back(
          cut_windows(problem, group * group_columns + n, std::min<int64_t>(block_columns, group_columns - n)));
    }
  }
  return windows;
}

}  // namespace

bool Shuffle8::supports(const GemmProblem& problem, int64_t groups) {
  return relative_cost(problem, groups) < Maddubs16::relative_cost(problem);
}

double Shuffle8::relative_cost(const GemmProblem& problem, int64_t groups) {
  if (!is_possible(problem) || !fits_16_bits(problem)) return std::numeric_limits<double>::infinity();
  const auto windows = cut_all_windows(problem, groups);
  size_t window_count = 0;
  for (const auto& lengths : windows) {
    if (lengths.empty()) return std::numeric_limits<double>::infinity();
    window_count += lengths.size();
  }
  const int64_t panels = ceil_divide(problem.columns / groups, tile_columns);
  const int64_t wide_blocks = ceil_divide(panels - vector_panels, block_panels);
  const int64_t narrow_blocks = ceil_divide(panels, block_panels) - wide_blocks;
  const auto steps = static_cast<double>(ceil_divide(problem.depth, depth_step));
  const double cost_of_step = cost_of_staging + cost_of_narrow_step * static_cast<double>(narrow_blocks) +
                              cost_of_wide_step * static_cast<double>(wide_blocks);
  const double cost =
      static_cast<double>(groups) * (steps * cost_of_step + cost_of_panel * static_cast<double>(panels)) +
      cost_of_window * static_cast<double>(window_count);
  return cost / static_cast<double>(groups * panels * ceil_divide(problem.depth, Maddubs16::depth_step));
}

Shuffle8::Shuffle8(const GemmProblem& problem, int64_t groups)
    : steps_(ceil_divide(problem.depth, depth_step)),
      group_panels_(ceil_divide(problem.columns / groups, tile_columns)),
      windows_(cut_all_windows(problem, groups)) {
  require(is_possible(problem) && fits_16_bits(problem) &&
              std::ranges::none_of(windows_, [](const auto& lengths) { return lengths.empty(); }),
          "gemm: these weights and codes up to {} do not fit tables of bytes", problem.quant_max);
  const int16_t lowest = lowest_level(problem.weights);
  const auto offset = [&](int w) { return problem.quant_max * std::max(-w, 0); };
  for (int b = 0; b <= problem.quant_max; ++b) {
    for (int a = 0; a < most_codes; ++a) {
      for (int i = 0; i < table_size; ++i) {
        const int v = lowest + i % weight_levels;
        const int w = lowest + i / weight_levels;
        tables_.push_back(static_cast<uint8_t>(a * v + b * w + offset(v) + offset(w)));
      }
    }
  }

  const int64_t pairs = steps_ * step_pairs;
  AlignedVector<int8_t> weights;  // [panels][pairs][tile_columns][pair]
  pack_panels<pair>(problem, groups, pairs, weights);
  const int64_t panels = groups * group_panels_;
  const int64_t group_vectors = ceil_divide(group_panels_, vector_panels);
  offsets_.assign(static_cast<size_t>(panels * tile_columns), 0);
  weights_.assign(static_cast<size_t>(groups * group_vectors * pairs * vector_panels * tile_columns), 0);
  for (int64_t panel = 0; panel < panels; ++panel) {
    for (int64_t p = 0; p < pairs; ++p) {
      uint8_t* indices = weights_.data() + vector_offset(panel, p) + panel % group_panels_ % vector_panels;
      for (int64_t n = 0; n < tile_columns; ++n) {
        const int8_t* vw = weights.data() + ((panel * pairs + p) * tile_columns + n) * pair;
        indices[n * vector_panels] = static_cast<uint8_t>(vw[0] - lowest + (vw[1] - lowest) * weight_levels);
        offsets_[static_cast<size_t>(panel * tile_columns + n)] += offset(vw[0]) + offset(vw[1]);
      }
    }
  }
}

size_t Shuffle8::block(int64_t panel) const {
  return static_cast<size_t>(panel / group_panels_ * ceil_divide(group_panels_, block_panels) +
                             panel % group_panels_ / block_panels);
}

int64_t Shuffle8::block_vectors(int64_t panel) const {
  const int64_t panels = group_panels_ - panel % group_panels_ / block_panels * block_panels;
  return ceil_divide(std::min<int64_t>(panels, block_panels), vector_panels);
}

int64_t Shuffle8::vector_offset(int64_t panel, int64_t p) const {
  const int64_t block = panel % group_panels_ / block_panels;
  const int64_t first = panel / group_panels_ * ceil_divide(group_panels_, vector_panels) + block * block_vectors(0);
  const int64_t vector = panel % group_panels_ % block_panels / vector_panels;
  return (first * steps_ * step_pairs + p * block_vectors(panel) + vector) * vector_panels * tile_columns;
}

size_t Shuffle8::bytes() const {
  const size_t windows = std::accumulate(windows_.begin(), windows_.end(), size_t{0},
                                         [](size_t n, const auto& lengths) { return n + lengths.size(); });
  return tables_.size() + weights_.size() + (offsets_.size() + windows) * sizeof(int32_t);
}

void Shuffle8::stage_copies(uint8_t code, int64_t count, std::byte* output) {
  if (count == 0) return;
  const uint8_t codes[pair] = {code, code};
  std::byte place[pair];
  stage(codes, pair, place);
  int64_t i = 0;
  for (; i + pair <= count; i += pair) std::memcpy(output + i, place, pair);
  stage(codes, count - i, output + i);
}

}  // namespace qstep::kernels::avx2

QSTEP_AVX2_BEGIN
namespace qstep::kernels::avx2 {
namespace {

constexpr int vector_columns = vector_panels * tile_columns;

/// sums[rows][vectors * vector_panels][tile_columns] = of entries.
template <int rows, int vectors>
QSTEP_NOINLINE void sum_entries(const TileInput<std::byte>& input, const uint8_t* tables, const uint8_t* weights,
                                std::span<const int32_t> windows, uint16_t* sums) {
  const int32_t* step = input.steps;
  const std::byte* row[rows];
  unroll<rows>([&](auto r) QSTEP_INLINE { row[r] = input.row[r]; });
  for (const int32_t& length : windows) {
    __m256i sum[rows][vectors];
    unroll<rows>([&](auto r) QSTEP_INLINE {
      unroll<vectors>([&](auto v) QSTEP_INLINE { sum[r][v] = _mm256_setzero_si256(); });
    });
    for (const int32_t* end = step + length; step != end; ++step) {
      const int64_t offset = *step;
      unroll<step_pairs>([&](auto p) QSTEP_INLINE {
        __m256i indices[vectors];
        unroll<vectors>([&](auto v) QSTEP_INLINE {
          indices[v] = load(weights + v * vector_columns);
          keep_in_register(indices[v]);
        });
        weights += vectors * vector_columns;
        unroll<rows>([&](auto r) QSTEP_INLINE {
          uint16_t place;
          std::memcpy(&place, row[r] + offset + p * pair, sizeof place);
          const __m256i table = _mm256_broadcastsi128_si256(load_half(tables + place));
          unroll<vectors>([&](auto v) QSTEP_INLINE {
            __m256i entries = _mm256_shuffle_epi8(table, indices[v]);
            keep_in_register(entries);
            sum[r][v] = _mm256_add_epi8(sum[r][v], entries);
            keep_in_register(sum[r][v]);
          });
        });
      });
    }
    const auto widen = [&](auto place) QSTEP_INLINE {
      unroll<rows>([&](auto r) QSTEP_INLINE {
        unroll<vectors>([&](auto v) QSTEP_INLINE {
          uint16_t* even = sums + (r * vectors + v) * vector_columns;
          place(even, _mm256_and_si256(sum[r][v], _mm256_set1_epi16(UINT8_MAX)));
          place(even + tile_columns, _mm256_srli_epi16(sum[r][v], 8));
        });
      });
    };
    if (&length == windows.data()) {
      widen([](uint16_t* to, __m256i x) QSTEP_INLINE { store(to, x); });
    } else {
      widen([](uint16_t* to, __m256i x) QSTEP_INLINE { store(to, _mm256_add_epi16(load(to), x)); });
    }
  }
}

/// Of one panel: finish(bias - offsets + sums).
template <int rows, class Finish>
QSTEP_NOINLINE void finish_panel(const uint16_t* sums, int64_t row_stride, const int32_t* bias, const int32_t* offsets,
                                 const Finish& finish) {
  __m256i left[rows];
  __m256i right[rows];
  const auto half = [&](int first, __m256i* sum) QSTEP_INLINE {
    const __m256i start = _mm256_sub_epi32(load(bias + first), load(offsets + first));
    unroll<rows>([&](auto r) QSTEP_INLINE {
      sum[r] = _mm256_add_epi32(start, _mm256_cvtepu16_epi32(load_half(sums + r * row_stride + first)));
    });
  };
  half(0, left);
  half(half_columns, right);
  finish(left, right);
}

}  // namespace

template <class Finish>
void Shuffle8::multiply(int64_t panel, int panels, const TileInput<std::byte>& input, const int32_t* bias,
                        Finish finish) const {
  alignas(memory_alignment) uint16_t sums[tile_rows * block_panels * tile_columns];
  with_constant<tile_rows>(input.rows, [&](auto r) QSTEP_INLINE {
    for (const int64_t end = panel + panels; panel < end;) {
      const int64_t vectors = block_vectors(panel);
      const uint8_t* weights = weights_.data() + vector_offset(panel, 0);
      const auto& windows = windows_[block(panel)];
      if (vectors == 1) {
        sum_entries<r, 1>(input, tables_.data(), weights, windows, sums);
      } else {
        sum_entries<r, block_panels / vector_panels>(input, tables_.data(), weights, windows, sums);
      }
      const int64_t row_stride = vectors * vector_columns;
      for (int p = 0; p < block_panels && panel < end; ++p, ++panel, bias += tile_columns, finish.next_panel()) {
        finish_panel<r>(sums + p * tile_columns, row_stride, bias, offsets_.data() + panel * tile_columns, finish);
      }
    }
  });
}

void Shuffle8::multiply(int64_t panel, int panels, const TileInput<std::byte>& input, const int32_t* bias,
                        int32_t* tile) const {
  static_assert(tile_rows == Madd16::tile_rows);
  multiply(panel, panels, input, bias, StoreTile{tile});
}

void Shuffle8::multiply_and_finish(int64_t panel, int panels, const TileInput<std::byte>& input, const int32_t* bias,
                                   const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) const {
  multiply(panel, panels, input, bias, StoreCodes(epilogue, tile, output.codes));
}

void Shuffle8::stage(const uint8_t* input, int64_t count, std::byte* output) {
  const __m256i factors = _mm256_set1_epi16(most_codes << 8 | 1);
  int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    store(output + i, _mm256_slli_epi16(_mm256_maddubs_epi16(load(input + i), factors), table_bits));
  }
  for (; i + 8 <= count; i += 8) {
    const __m128i codes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(input + i));
    const __m128i pairs = _mm_maddubs_epi16(codes, _mm256_castsi256_si128(factors));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(output + i), _mm_slli_epi16(pairs, table_bits));
  }
  for (; i < count; i += pair) {
    const int second = i + 1 < count ? input[i + 1] : 0;
    const auto place = static_cast<uint16_t>((input[i] + second * most_codes) << table_bits);
    std::memcpy(output + i, &place, static_cast<size_t>(std::min<int64_t>(count - i, pair)));
  }
}

}  // namespace qstep::kernels::avx2
QSTEP_AVX2_END
#endif
