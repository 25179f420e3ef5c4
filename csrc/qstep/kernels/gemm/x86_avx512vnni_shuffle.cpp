#include "qstep/kernels/gemm/x86_avx512vnni_shuffle.h"

#include <array>
#include <cstring>
#include <utility>

#include "qstep/kernels/gemm/x86_avx512_finish.h"
#include "qstep/kernels/x86_avx512.h"

#if defined(__x86_64__)
namespace qstep::kernels::avx512vnni {
namespace {

constexpr int pair = PairTables::pair;
constexpr int vector_panels = 4;
constexpr int block_vectors = 4;
constexpr int table_copies = 4;  // a broadcast from memory would take the port of a lookup
constexpr int block_panels = vector_panels * block_vectors;
static_assert(block_panels == Shuffle8::tile_panels(1));

constexpr PairTableShape shape{vector_panels, block_vectors, table_copies};

// Measured on layers, in units of one step of 4 with vpdpbusd on a tile of 6 rows and 16 columns.
constexpr PairTableCosts costs{.step = 0.6, .block_step = 4.4, .vector_step = 4.0, .window = 2.3, .panel = 3.0};

}  // namespace

bool Shuffle8::supports(const GemmProblem& problem, int64_t groups) { return fit(problem, groups, shape); }

double Shuffle8::relative_cost(const GemmProblem& problem, int64_t groups) {
  return PairTables::cost(problem, groups, shape, costs);
}

Shuffle8::Shuffle8(const GemmProblem& problem, int64_t groups) : PairTables(problem, groups, shape) {}

}  // namespace qstep::kernels::avx512vnni

QSTEP_AVX512VNNI_BEGIN
namespace qstep::kernels::avx512vnni {
namespace {

constexpr int vector_columns = vector_panels * tile_columns;

/// sums[rows][vectors * vector_panels][tile_columns] = of entries.
template <int rows, int vectors>
void multiply_by_table(const TileInput<std::byte>& input, const uint8_t* tables, const PairTables::Block& block,
                       uint16_t* sums) {
  const uint8_t* weights = block.weights;
  const int32_t* step = input.steps;
  const std::byte* row[rows];
  unroll<rows>([&](auto r) QSTEP_INLINE { row[r] = input.row[r]; });
  for (const int32_t& length : block.windows) {
    __m512i sum[rows][vectors];
    unroll<rows>([&](auto r) QSTEP_INLINE {
      unroll<vectors>([&](auto v) QSTEP_INLINE { sum[r][v] = _mm512_setzero_si512(); });
    });
    for (const int32_t* end = step + length; step != end; ++step) {
#pragma GCC unroll 1  // or gcc 12 spills accumulators
      for (int64_t at = *step; at != *step + PairTables::depth_step; at += pair) {
        __m512i indices[vectors];
        unroll<vectors>([&](auto v) QSTEP_INLINE {
          __m512i loaded = load(weights + v * vector_columns);
          keep_in_register(loaded);
          indices[v] = loaded;
        });
        weights += vectors * vector_columns;
        unroll<rows>([&](auto r) QSTEP_INLINE {
          uint16_t place;
          std::memcpy(&place, row[r] + at, sizeof place);
          const __m512i table = load(tables + int64_t{table_copies} * place);
          unroll<vectors>([&](auto v) QSTEP_INLINE {
            __m512i entries = _mm512_shuffle_epi8(table, indices[v]);
            keep_in_register(entries);
            __m512i total = _mm512_add_epi8(sum[r][v], entries);
            keep_in_register(total);
            sum[r][v] = total;
          });
        });
      }
    }
    const auto widen = [&](auto place) QSTEP_INLINE {
      unroll<rows>([&](auto r) QSTEP_INLINE {
        unroll<vectors>([&](auto v) QSTEP_INLINE {
          uint16_t* even = sums + (r * vectors + v) * vector_columns;
          place(even, _mm512_and_si512(sum[r][v], _mm512_set1_epi16(UINT8_MAX)));
          place(even + vector_columns / 2, _mm512_srli_epi16(sum[r][v], 8));
        });
      });
    };
    if (&length == block.windows.data()) {
      widen([](uint16_t* to, __m512i x) QSTEP_INLINE { store(to, x); });
    } else {
      widen([](uint16_t* to, __m512i x) QSTEP_INLINE { store(to, _mm512_add_epi16(load(to), x)); });
    }
  }
}

/// Of one panel: finish(bias - offsets + sums).
template <int rows, class Finish>
void finish_panel(const uint16_t* sums, int64_t row_stride, const int32_t* bias, const int32_t* offsets,
                  const Finish& finish) {
  const __m512i start = _mm512_sub_epi32(load(bias), load(offsets));
  __m512i sum[rows][1];
  unroll<rows>([&](auto r) QSTEP_INLINE {
    sum[r][0] = _mm512_add_epi32(start, _mm512_maskz_cvtepu16_epi32(all_lanes, avx2::load(sums + r * row_stride)));
  });
  finish(sum);
}

/// What a tile of so many rows takes.
template <class Finish>
struct TileFunctions {
  using MultiplyByTable = void (*)(const TileInput<std::byte>&, const uint8_t*, const PairTables::Block&, uint16_t*);
  using FinishPanel = void (*)(const uint16_t*, int64_t, const int32_t*, const int32_t*, const Finish&);

  std::array<MultiplyByTable, block_vectors> multiply_by_table;  // by vectors of the block, from 1 on
  FinishPanel finish_panel;
};

template <class Finish, int rows, int... vectors>
constexpr TileFunctions<Finish> functions_of_rows(std::integer_sequence<int, vectors...>) {
  return {{multiply_by_table<rows, vectors + 1>...}, finish_panel<rows, Finish>};
}

template <class Finish, int... rows>
constexpr auto functions_of_tiles(std::integer_sequence<int, rows...>) {
  return std::array{functions_of_rows<Finish, rows + 1>(std::make_integer_sequence<int, block_vectors>{})...};
}

}  // namespace

template <class Finish>
void Shuffle8::multiply(int64_t panel, int panels, const TileInput<std::byte>& input, const int32_t* bias,
                        Finish finish) const {
  static constexpr auto table = functions_of_tiles<Finish>(std::make_integer_sequence<int, tile_rows>{});
  const TileFunctions<Finish>& functions = table[static_cast<size_t>(input.rows) - 1];
  alignas(memory_alignment) uint16_t sums[tile_rows * block_panels * tile_columns];
  for (const int64_t end = panel + panels; panel < end;) {
    const Block in_block = block(panel);
    functions.multiply_by_table[static_cast<size_t>(in_block.vectors) - 1](input, tables(), in_block, sums);
    for (int p = 0; p < block_panels && panel < end; ++p, ++panel, bias += tile_columns, finish.skip(1)) {
      functions.finish_panel(sums + p * tile_columns, in_block.vectors * vector_columns, bias, offsets(panel), finish);
    }
  }
}

void Shuffle8::multiply(int64_t panel, int panels, const TileInput<std::byte>& input, const int32_t* bias,
                        int32_t* tile) const {
  multiply(panel, panels, input, bias, StoreTile<tile_rows>{tile});
}

void Shuffle8::multiply_and_finish(int64_t panel, int panels, const TileInput<std::byte>& input, const int32_t* bias,
                                   const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) const {
  with_store_codes(epilogue, tile, output.codes, [&](auto finish) { multiply(panel, panels, input, bias, finish); });
}

}  // namespace qstep::kernels::avx512vnni
QSTEP_AVX512VNNI_END
#endif
