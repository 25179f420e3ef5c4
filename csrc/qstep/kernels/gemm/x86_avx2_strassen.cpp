#include "qstep/kernels/gemm/x86_avx2_strassen.h"

#include <algorithm>
#include <cstdlib>
#include <type_traits>

#include "qstep/core/error.h"
#include "qstep/kernels/gemm/pack_panels.h"
#include "qstep/kernels/gemm/x86_avx2.h"
#include "qstep/kernels/gemm/x86_avx2_finish.h"
#include "qstep/kernels/x86_avx2.h"

#if defined(__x86_64__)
namespace qstep::kernels::avx2 {

bool Strassen16::supports(const GemmProblem& problem) {
  constexpr int64_t least_depth = 32;     // of combine_rows
  constexpr int largest = INT16_MAX / 4;  // T4 adds four weights
  return problem.sums() == 1 && problem.depth >= least_depth &&
         std::ranges::all_of(problem.weights, [](int16_t w) { return std::abs(w) <= largest; });
}

bool Strassen16::suits(const GemmProblem& problem) {
  // Measured on 1x1 layers: below, a product is over before it has gained what its start costs.
  constexpr int64_t least_depth = 64;
  constexpr int64_t least_columns = 64;
  constexpr double cost = 0.9;  // in that of Madd16
  return problem.depth >= least_depth && problem.columns >= least_columns && Maddubs16::relative_cost(problem) > cost;
}

Strassen16::Strassen16(const GemmProblem& problem, int64_t groups) : steps_(ceil_divide(problem.depth, depth_step)) {
  require(groups == 1 && supports(problem), "gemm: Strassen's product takes one matrix of depth 32 and more");
  pack_panels<2>(problem, groups, 2 * steps_, weights_);
  const int64_t half = steps_ * 2 * tile_columns;
  const auto pairs = static_cast<int64_t>(weights_.size()) / (4 * half);
  sums_.resize(static_cast<size_t>(pairs * 4 * half));
  for (int64_t i = 0; i < pairs * half; ++i) {
    const int64_t at = i / half * 4 * half + i % half;
    const int16_t* b = &weights_[static_cast<size_t>(at)];
    int16_t* t = &sums_[static_cast<size_t>(at)];
    const int b11 = b[0];
    const int b21 = b[half];
    const int b12 = b[2 * half];
    const int b22 = b[3 * half];
    const int t1 = b12 - b11;
    const int t2 = b22 - t1;
    t[0] = static_cast<int16_t>(t2);
    t[half] = static_cast<int16_t>(b22 - b12);
    t[2 * half] = static_cast<int16_t>(b21 - t2);
    t[3 * half] = static_cast<int16_t>(t1);
  }
}

void Strassen16::stage(const uint8_t* input, int64_t count, int16_t* output) { Madd16::stage(input, count, output); }

}  // namespace qstep::kernels::avx2

QSTEP_AVX2_BEGIN
namespace qstep::kernels::avx2 {
namespace {

constexpr int most_pairs = Strassen16::tile_rows / 2;  // of rows in a tile
constexpr int few_rows = most_pairs;                   // fit a tile of an ordinary product

/// What a product adds to: the sums of row r lie at sums + r * stride.
struct Start {
  const int32_t* sums;
  int stride;
};

/// Hands the sums of start + rows * weights to `finish`. The codes of row r lie at row[r] + offset.
template <int rows, class Finish>
QSTEP_NOINLINE void multiply_rows(const int16_t* const* row, int64_t offset, const int16_t* weights, int64_t steps,
                                  Start start, const Finish& finish) {
  const int64_t ahead = 4 * steps * 2 * tile_columns;  // the same block of the next pair of panels
  const int16_t* codes[rows];
  __m256i left[rows];
  __m256i right[rows];
  unroll<rows>([&](auto r) QSTEP_INLINE {
    codes[r] = row[r] + offset;
    left[r] = load(start.sums + r * start.stride);
    right[r] = load(start.sums + r * start.stride + half_columns);
  });
  const auto add_step = [&](int64_t k) QSTEP_INLINE {
    const __m256i left_weights = load(weights);
    const __m256i right_weights = load(weights + 2 * half_columns);
    _mm_prefetch(reinterpret_cast<const char*>(weights + ahead), _MM_HINT_T1);
    unroll<rows>([&](auto r) QSTEP_INLINE {
      const __m256i pair = broadcast_4_bytes(codes[r] + k);
      add_int32(left[r], _mm256_madd_epi16(pair, left_weights));
      add_int32(right[r], _mm256_madd_epi16(pair, right_weights));
    });
    weights += 2 * tile_columns;
  };
  int64_t s = 0;
  for (; s + 2 <= steps; s += 2) {
    add_step(2 * s);
    add_step(2 * s + 2);
  }
  if (s < steps) add_step(2 * s);
  finish(left, right);
}

/// Sums of one row of each pair.
struct HalfTile {
  alignas(memory_alignment) int32_t sums[most_pairs * tile_columns];

  QSTEP_INLINE Start start() const { return {sums, tile_columns}; }
  QSTEP_INLINE StoreTile keep() { return {sums}; }
};

/// Hands sums to `finish` as those of a place in its tile.
template <class Finish>
struct FinishAt {
  const Finish& finish;
  TilePlace place;

  template <int rows>
  QSTEP_INLINE void operator()(const __m256i (&left)[rows], const __m256i (&right)[rows]) const {
    finish(left, right, place);
  }
};

/// The sums are W: keeps U + W in place of U and hands V + W to `finish`.
template <class Finish>
struct AddToBoth {
  int32_t* u;
  const int32_t* v;
  Finish finish;

  template <int rows>
  QSTEP_INLINE void operator()(const __m256i (&left)[rows], const __m256i (&right)[rows]) const {
    __m256i left_v[rows];
    __m256i right_v[rows];
    unroll<rows>([&](auto r) QSTEP_INLINE {
      const int left_at = r * tile_columns;
      const int right_at = left_at + half_columns;
      store(u + left_at, _mm256_add_epi32(left[r], load(u + left_at)));
      store(u + right_at, _mm256_add_epi32(right[r], load(u + right_at)));
      left_v[r] = _mm256_add_epi32(left[r], load(v + left_at));
      right_v[r] = _mm256_add_epi32(right[r], load(v + right_at));
    });
    finish(left_v, right_v);
  }
};

/// Two panels. Of the rows' pairs, `row` are the first ones.
template <int pairs, class Finish>
QSTEP_INLINE inline void multiply_two_panels(const int16_t* const* row, const int16_t* b, const int16_t* t,
                                             int64_t steps, const int32_t* bias, const Finish& finish) {
  const int64_t half = 2 * steps;  // of the depth
  const int64_t block = half * tile_columns;
  const auto multiply = [&](int64_t offset, const int16_t* weights, Start start, const auto& to)
                            QSTEP_INLINE { multiply_rows<pairs>(row, offset, weights, steps, start, to); };
  const auto tile = [&](int of_pair, int panel) QSTEP_INLINE { return FinishAt<Finish>{finish, {of_pair, 2, panel}}; };
  HalfTile p;
  HalfTile u;
  HalfTile v;
  // The right panel's bias, less the left one's, which is in U and V.
  alignas(memory_alignment) int32_t more_bias[tile_columns];
  for (int c = 0; c < tile_columns; ++c) more_bias[c] = bias[tile_columns + c] - bias[c];
  multiply(0, b, {bias, 0}, p.keep());                       // A11 B11
  multiply(half, b + block, p.start(), tile(0, 0));          // A12 B21
  multiply(3 * half, t, p.start(), u.keep());                // S2 T2
  multiply(6 * half, t + block, u.start(), v.keep());        // S3 T3
  multiply(5 * half, t + 2 * block, v.start(), tile(1, 0));  // A22 T4
  multiply(2 * half, t + 3 * block, {more_bias, 0}, AddToBoth<FinishAt<Finish>>{u.sums, v.sums, tile(1, 1)});  // S1 T1
  multiply(7 * half, b + 3 * block, u.start(), tile(0, 1));                                                    // S4 B22
}

}  // namespace

void Strassen16::combine_rows(int16_t* rows, int64_t count, int64_t length) {
  const int64_t half = length / 2;
  constexpr int64_t lanes = 16;
  if (count % 2 != 0) std::copy_n(rows + (count - 1) * 2 * length, length, rows + count * 2 * length);
  for (int64_t r = 0; r < count; r += 2, rows += 4 * length) {
    int16_t* first = rows;
    int16_t* second = rows + 2 * length;
    for (int64_t k = 0; k < half; k += lanes) {
      const int64_t i = std::min(k, half - lanes);  // the last ones again, instead of a scalar tail
      const __m256i a11 = load(first + i);
      const __m256i a12 = load(first + half + i);
      const __m256i a21 = load(second + i);
      const __m256i s1 = _mm256_add_epi16(a21, load(second + half + i));
      const __m256i s2 = _mm256_sub_epi16(s1, a11);
      store(first + length + i, s1);
      store(first + length + half + i, s2);
      store(second + length + i, _mm256_sub_epi16(a11, a21));
      store(second + length + half + i, _mm256_sub_epi16(a12, s2));
    }
  }
}

template <class Finish>
void Strassen16::multiply(int64_t panel, int panels, const TileInput<int16_t>& input, const int32_t* bias,
                          Finish&& finish) const {
  using FinishRows = FinishAt<std::remove_reference_t<Finish>>;
  const int64_t length = 4 * steps_;  // of a row
  const int64_t block = steps_ * 2 * tile_columns;
  const int16_t* b = weights_.data() + panel * 2 * block;
  const int16_t* t = sums_.data() + panel * 2 * block;
  if (input.rows <= few_rows) {
    with_constant<few_rows>(input.rows, [&](auto rows) QSTEP_INLINE {
      for (; panels > 0; --panels, b += 2 * block, bias += tile_columns, finish.skip(1)) {
        multiply_rows<rows>(input.row, 0, b, 2 * steps_, {bias, 0}, FinishRows{finish, {}});
      }
    });
    return;
  }
  const int16_t* row[most_pairs];
  for (int r = 0; r < input.rows; r += 2) row[r / 2] = input.row[r];
  with_constant<most_pairs>((input.rows + 1) / 2, [&](auto pairs) QSTEP_INLINE {
    if constexpr (2 * pairs > few_rows) {
      for (; panels > 1; panels -= 2, b += 4 * block, t += 4 * block, bias += 2 * tile_columns, finish.skip(2)) {
        multiply_two_panels<pairs>(row, b, t, steps_, bias, finish);
      }
      if (panels > 0) {
        multiply_rows<pairs>(row, 0, b, 2 * steps_, {bias, 0}, FinishRows{finish, {0, 2, 0}});
        multiply_rows<pairs>(row, 2 * length, b, 2 * steps_, {bias, 0}, FinishRows{finish, {1, 2, 0}});
      }
    }
  });
}

void Strassen16::multiply(int64_t panel, int panels, const TileInput<int16_t>& input, const int32_t* bias,
                          int32_t* tile) const {
  multiply(panel, panels, input, bias, StoreTile{tile, tile_rows});
}

void Strassen16::multiply_and_finish(int64_t panel, int panels, const TileInput<int16_t>& input, const int32_t* bias,
                                     const Epilogue& epilogue, const AccumulatorTile& tile,
                                     const Output& output) const {
  multiply(panel, panels, input, bias, StoreCodes(epilogue, tile, output.codes));
}

}  // namespace qstep::kernels::avx2
QSTEP_AVX2_END
#endif
