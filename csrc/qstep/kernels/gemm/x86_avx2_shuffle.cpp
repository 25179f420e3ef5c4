#include "qstep/kernels/gemm/x86_avx2_shuffle.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>

#include "qstep/kernels/gemm/x86_avx2.h"
#include "qstep/kernels/gemm/x86_avx2_finish.h"
#include "qstep/kernels/x86_avx2.h"

#if defined(__x86_64__)
namespace qstep::kernels::avx2 {
namespace {

constexpr int pair = PairTables::pair;
constexpr int step_pairs = PairTables::step_pairs;
constexpr int vector_panels = 2;
constexpr int block_vectors = 2;
constexpr int block_panels = vector_panels * block_vectors;
static_assert(block_panels == Shuffle8::tile_panels(1));

constexpr PairTableShape shape{vector_panels, block_vectors, 1};

// Measured on layers, in units of one step of 4 with vpmaddwd on a tile of 6 rows and 16 columns.
constexpr PairTableCosts costs{.step = 0.2, .block_step = 1.44, .vector_step = 0.24, .window = 0.5, .panel = 0.5};

}  // namespace

bool Shuffle8::supports(const GemmProblem& problem, int64_t groups) { return fit(problem, groups, shape); }

double Shuffle8::relative_cost(const GemmProblem& problem, int64_t groups) {
  const double cost = PairTables::cost(problem, groups, shape, costs);
  return std::isinf(cost) ? cost : cost / Maddubs16::relative_cost(problem);
}

Shuffle8::Shuffle8(const GemmProblem& problem, int64_t groups) : PairTables(problem, groups, shape) {}

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
QSTEP_NOINLINE void multiply_by_table(const TileInput<std::byte>& input, const uint8_t* tables,
                                      const PairTables::Block& block, uint16_t* sums) {
  const uint8_t* weights = block.weights;
  const int32_t* step = input.steps;
  const std::byte* row[rows];
  unroll<rows>([&](auto r) QSTEP_INLINE { row[r] = input.row[r]; });
  for (const int32_t& length : block.windows) {
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
    if (&length == block.windows.data()) {
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
                        Finish&& finish) const {
  alignas(memory_alignment) uint16_t sums[tile_rows * block_panels * tile_columns];
  with_constant<tile_rows>(input.rows, [&](auto r) QSTEP_INLINE {
    for (const int64_t end = panel + panels; panel < end;) {
      const Block in_block = block(panel);
      if (in_block.vectors == 1) {
        multiply_by_table<r, 1>(input, tables(), in_block, sums);
      } else {
        multiply_by_table<r, block_vectors>(input, tables(), in_block, sums);
      }
      for (int p = 0; p < block_panels && panel < end; ++p, ++panel, bias += tile_columns, finish.skip(1)) {
        finish_panel<r>(sums + p * tile_columns, in_block.vectors * vector_columns, bias, offsets(panel), finish);
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
  const __m256i factors = _mm256_set1_epi16(PairTables::most_codes << 8 | 1);
  int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    store(output + i, _mm256_slli_epi16(_mm256_maddubs_epi16(load(input + i), factors), PairTables::place_bits));
  }
  for (; i + 8 <= count; i += 8) {
    const __m128i codes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(input + i));
    const __m128i pairs = _mm_maddubs_epi16(codes, _mm256_castsi256_si128(factors));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(output + i), _mm_slli_epi16(pairs, PairTables::place_bits));
  }
  for (; i < count; i += pair) {
    const int second = i + 1 < count ? input[i + 1] : 0;
    const auto place = static_cast<uint16_t>((input[i] + second * PairTables::most_codes) << PairTables::place_bits);
    std::memcpy(output + i, &place, static_cast<size_t>(std::min<int64_t>(count - i, pair)));
  }
}

}  // namespace qstep::kernels::avx2
QSTEP_AVX2_END
#endif
