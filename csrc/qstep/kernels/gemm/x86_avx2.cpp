#include "qstep/kernels/gemm/x86_avx2.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <span>

#include "qstep/core/error.h"
#include "qstep/kernels/gemm/pack_panels.h"
#include "qstep/kernels/gemm/x86_avx2_finish.h"
#include "qstep/kernels/weight_factor.h"
#include "qstep/kernels/x86_avx2.h"

#if defined(__x86_64__)
namespace qstep::kernels::avx2 {

Madd16::Madd16(const GemmProblem& problem, int64_t groups) : steps_(ceil_divide(problem.depth, depth_step)) {
  pack_panels<depth_step>(problem, groups, steps_, weights_);
}

bool Maddubs16::supports(const GemmProblem& problem) { return fit<int8_t>(problem.weights); }

double Maddubs16::relative_cost(const GemmProblem& problem, int longest_window) {
  if (!supports(problem)) return std::numeric_limits<double>::infinity();
  // A few panels stand for all, whatever their groups and sums.
  constexpr int64_t samples = 8;
  const int64_t panels = ceil_divide(problem.sums() * problem.columns, tile_columns);
  double cost = 0;
  double cost_of_madd16 = 0;
  for (int64_t p = 0; p < panels; p += ceil_divide(panels, samples)) {
    GemmProblem panel = problem;
    const int64_t first = p * tile_columns;
    panel.columns = std::min<int64_t>(tile_columns, problem.sums() * problem.columns - first);
    panel.weights = problem.weights.subspan(static_cast<size_t>(first * problem.depth),
                                            static_cast<size_t>(panel.columns * problem.depth));
    const Maddubs16 packed(panel, 1, longest_window);
    cost += packed.plans_[0].cost;
    cost_of_madd16 += static_cast<double>(packed.steps_);
  }
  return cost / cost_of_madd16;
}

Maddubs16::Maddubs16(const GemmProblem& problem, int64_t groups, int longest_window)
    : steps_(ceil_divide(problem.depth, depth_step)) {
  require(supports(problem), "gemm: weights must be in [-128, 127]");
  pack_panels<depth_step>(problem, groups, steps_, weights_);
  const size_t panel_size = static_cast<size_t>(steps_) * step_weights;
  for (size_t start = 0; start < weights_.size(); start += panel_size) {
    plans_.push_back(plan_int16_windows({weights_.data() + start, panel_size}, problem.quant_max, longest_window));
  }
}

size_t Maddubs16::bytes() const {
  size_t bytes = weights_.size();
  for (const Int16Windows& plan : plans_) {
    bytes += plan.lengths.size() * sizeof(int32_t);
    for (const auto& excess : plan.excess) bytes += excess.size() * sizeof(ExcessStep);
  }
  return bytes;
}

void Maddubs16::stage(const uint8_t* input, int64_t count, uint8_t* output) {
  std::memcpy(output, input, static_cast<size_t>(count));
}

}  // namespace qstep::kernels::avx2

QSTEP_AVX2_BEGIN
namespace qstep::kernels::avx2 {
namespace {

constexpr int few_rows = 2;  // a product of so few waits for its weights

/// Asks for weights that will be wanted after those at `weights`: a product of many rows comes back to its panel, so it
/// wants those of the next panel, which are read for the first time.
template <int rows>
QSTEP_INLINE inline void prefetch_ahead(const void* weights, int64_t panel_bytes) {
  if constexpr (rows <= few_rows) {
    prefetch_weights(weights);
  } else {
    _mm_prefetch(static_cast<const char*>(weights) + panel_bytes, _MM_HINT_T1);
  }
}

// One panel of a tile is a function of its own: inlined into the loop over panels, gcc 12 spills its accumulators.
// `halves` is 1 where a panel has no columns in its right half.

template <int rows, int halves, class Finish>
QSTEP_NOINLINE void multiply_madd16(const TileInput<int16_t>& input, const int16_t* panel, int64_t steps,
                                    const int32_t* bias, const Finish& finish) {
  const int64_t panel_bytes = steps * 2 * tile_columns * static_cast<int64_t>(sizeof(int16_t));
  for (int t = 0; t < input.tiles; ++t) {
    const int16_t* at = panel;
    const int16_t* row[rows];
    __m256i sum[halves][rows];
    unroll<rows>([&](auto r) QSTEP_INLINE {
      row[r] = input.row[t * rows + r];
      unroll<halves>([&](auto h) QSTEP_INLINE { sum[h][r] = load(bias + h * half_columns); });
    });
    const auto add_step = [&](int64_t s) QSTEP_INLINE {
      __m256i weights[halves];
      unroll<halves>([&](auto h) QSTEP_INLINE { weights[h] = load(at + h * 2 * half_columns); });
      prefetch_ahead<rows>(at, panel_bytes);
      unroll<rows>([&](auto r) QSTEP_INLINE {
        const __m256i codes = broadcast_4_bytes(row[r] + input.steps[s]);
        unroll<halves>([&](auto h) QSTEP_INLINE { add_int32(sum[h][r], _mm256_madd_epi16(codes, weights[h])); });
      });
      at += 2 * tile_columns;
    };
    int64_t s = 0;
    for (; s + 2 <= steps; s += 2) {
      add_step(s);
      add_step(s + 1);
    }
    if (s < steps) add_step(s);
    finish(sum[0], sum[halves - 1], {.row = t * rows});
  }
}

/// Windows of any length; between them the int32 accumulators are in memory.
template <int rows, int halves, class Finish>
QSTEP_NOINLINE void multiply_windows(const TileInput<uint8_t>& input, const int8_t* panel, int64_t steps,
                                     std::span<const int32_t> lengths, const int32_t* bias, Finish& finish) {
  const int64_t panel_bytes = steps * step_weights;
  const __m256i ones = _mm256_set1_epi16(1);
  for (int t = 0; t < input.tiles; ++t) {
    const int8_t* weights_at = panel;
    const int32_t* step = input.steps;
    const uint8_t* row[rows];
    unroll<rows>([&](auto r) QSTEP_INLINE { row[r] = input.row[t * rows + r]; });
    int32_t* sums = finish.tile;
    const int32_t* before = bias;  // of the sums of row 0
    int64_t row_stride = 0;
    for (size_t w = 0;; ++w) {
      const int32_t length = lengths[w];
      __m256i sum[halves][rows];
      unroll<halves>(
          [&](auto h) QSTEP_INLINE { unroll<rows>([&](auto r) QSTEP_INLINE { sum[h][r] = _mm256_setzero_si256(); }); });
      const auto add_step = [&](int ahead) QSTEP_INLINE {
        const int8_t* at = weights_at + ahead * step_weights;
        __m256i weights[halves];
        unroll<halves>([&](auto h) QSTEP_INLINE { weights[h] = load(at + h * half_weights); });
        prefetch_ahead<rows>(at, panel_bytes);
        unroll<rows>([&](auto r) QSTEP_INLINE {
          const __m256i codes = broadcast_4_bytes(row[r] + step[ahead]);
          unroll<halves>([&](auto h) QSTEP_INLINE { add_int16(sum[h][r], _mm256_maddubs_epi16(codes, weights[h])); });
        });
      };
      const auto advance = [&](int steps) QSTEP_INLINE {
        step += steps;
        weights_at += steps * step_weights;
      };
      for (int32_t s = length / 2; s > 0; --s) {
        add_step(0);
        add_step(1);
        advance(2);
      }
      if (length % 2 != 0) {
        add_step(0);
        advance(1);
      }
      unroll<rows>([&](auto r) QSTEP_INLINE {
        unroll<halves>([&](auto h) QSTEP_INLINE {
          sum[h][r] =
              _mm256_add_epi32(load(before + r * row_stride + h * half_columns), _mm256_madd_epi16(sum[h][r], ones));
        });
      });
      if (w + 1 == lengths.size()) {
        finish(sum[0], sum[halves - 1], {.row = t * rows});
        break;
      }
      unroll<rows>([&](auto r) QSTEP_INLINE {
        unroll<halves>([&](auto h) QSTEP_INLINE { store(sums + r * tile_columns + h * half_columns, sum[h][r]); });
      });
      before = sums;
      row_stride = tile_columns;
    }
  }
}

/// Windows of `window` steps, then the excess; the int32 accumulators are in registers.
template <int rows, int halves, int window, class Finish>
QSTEP_NOINLINE void multiply_constant_windows(const TileInput<uint8_t>& input, const int8_t* panel, int64_t steps,
                                              const Int16Windows& plan, const int32_t* bias, const Finish& finish) {
  const int64_t panel_bytes = steps * step_weights;
  const __m256i ones = _mm256_set1_epi16(1);
  for (int t = 0; t < input.tiles; ++t) {
    const uint8_t* row[rows];
    __m256i sum[halves][rows];
    unroll<rows>([&](auto r) QSTEP_INLINE {
      row[r] = input.row[t * rows + r];
      unroll<halves>([&](auto h) QSTEP_INLINE { sum[h][r] = load(bias + h * half_columns); });
    });
    const auto widen = [&](__m256i& to, __m256i narrow)
                           QSTEP_INLINE { add_int32(to, _mm256_madd_epi16(narrow, ones)); };
    int64_t s = 0;
    if constexpr (window > 1) {
      for (; s + window <= steps; s += window) {
        unroll<rows>([&](auto r) QSTEP_INLINE {
          const uint8_t* run = row[r] + input.steps[s];  // a window lies within a run of the depth
          const int8_t* weights = panel + s * step_weights;
          __m256i narrow[halves];
          unroll<window>([&](auto i) QSTEP_INLINE {
            if constexpr (r == 0) prefetch_ahead<rows>(weights, panel_bytes);
            const __m256i codes = broadcast_4_bytes(run);
            unroll<halves>([&](auto h) QSTEP_INLINE {
              const __m256i products = _mm256_maddubs_epi16(codes, load(weights + h * half_weights));
              if constexpr (i == 0) {
                narrow[h] = products;
              } else {
                add_int16(narrow[h], products);
              }
            });
            run += step_depth;
            weights += step_weights;
          });
          unroll<halves>([&](auto h) QSTEP_INLINE { widen(sum[h][r], narrow[h]); });
        });
      }
    }
    for (; s < steps; ++s) {
      const int8_t* at = panel + s * step_weights;
      __m256i weights[halves];
      unroll<halves>([&](auto h) QSTEP_INLINE { weights[h] = load(at + h * half_weights); });
      prefetch_ahead<rows>(at, panel_bytes);
      unroll<rows>([&](auto r) QSTEP_INLINE {
        const __m256i codes = broadcast_4_bytes(row[r] + input.steps[s]);
        unroll<halves>([&](auto h) QSTEP_INLINE { widen(sum[h][r], _mm256_maddubs_epi16(codes, weights[h])); });
      });
    }
    unroll<halves>([&](auto h) QSTEP_INLINE {
      for (const ExcessStep& e : plan.excess[h]) {
        const __m256i weights = load(e.weights);
        unroll<rows>([&](auto r) QSTEP_INLINE {
          widen(sum[h][r], _mm256_maddubs_epi16(broadcast_4_bytes(row[r] + input.steps[e.step]), weights));
        });
      }
    });
    finish(sum[0], sum[halves - 1], {.row = t * rows});
  }
}

/// body(halves): with 1 where `finish` does not need the right ones.
template <class Finish, class Body>
QSTEP_INLINE inline void with_halves(const Finish& finish, Body body) {
  if (finish.needs_right_half()) {
    body(std::integral_constant<int, 2>{});
  } else {
    body(std::integral_constant<int, 1>{});
  }
}

}  // namespace

template <class Finish>
void Madd16::multiply(int64_t panel, int panels, const TileInput<int16_t>& input, const int32_t* bias,
                      Finish&& finish) const {
  const int64_t panel_size = steps_ * tile_columns * depth_step;
  const int16_t* weights = weights_.data() + panel * panel_size;
  with_constant<tile_rows>(input.rows, [&](auto r) QSTEP_INLINE {
    for (; panels > 0; --panels, weights += panel_size, bias += tile_columns, finish.skip(1)) {
      with_halves(finish,
                  [&](auto halves) QSTEP_INLINE { multiply_madd16<r, halves>(input, weights, steps_, bias, finish); });
    }
  });
}

void Madd16::multiply(int64_t panel, int panels, const TileInput<int16_t>& input, const int32_t* bias,
                      int32_t* tile) const {
  multiply(panel, panels, input, bias, StoreTile{tile});
}

void Madd16::multiply_and_finish(int64_t panel, int panels, const TileInput<int16_t>& input, const int32_t* bias,
                                 const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) const {
  multiply(panel, panels, input, bias, StoreCodes(epilogue, tile, output.codes));
}

void Madd16::stage(const uint8_t* input, int64_t count, int16_t* output) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) store(output + i, _mm256_cvtepu8_epi16(load_half(input + i)));
  if (i < count && count >= 16) {  // the last 16 again, instead of a scalar tail
    store(output + count - 16, _mm256_cvtepu8_epi16(load_half(input + count - 16)));
    return;
  }
  for (; i < count; ++i) output[i] = input[i];
}

template <class Finish>
void Maddubs16::multiply(int64_t panel, int panels, const TileInput<uint8_t>& input, const int32_t* bias,
                         Finish&& finish) const {
  with_constant<tile_rows>(input.rows, [&](auto r) QSTEP_INLINE {
    for (const int64_t end = panel + panels; panel < end; ++panel, bias += tile_columns, finish.skip(1)) {
      const int8_t* weights = weights_.data() + panel * steps_ * step_weights;
      const Int16Windows& plan = plans_[static_cast<size_t>(panel)];
      with_halves(finish, [&](auto halves) QSTEP_INLINE {
        const auto multiply = [&](auto window) QSTEP_INLINE {
          multiply_constant_windows<r, halves, window>(input, weights, steps_, plan, bias, finish);
        };
        switch (plan.window) {
          case 0:
            return multiply_windows<r, halves>(input, weights, steps_, plan.lengths, bias, finish);
          case 1:
            return multiply(std::integral_constant<int, 1>{});
          case 2:
            return multiply(std::integral_constant<int, 2>{});
          case 4:
            return multiply(std::integral_constant<int, 4>{});
          default:
            return multiply(std::integral_constant<int, 8>{});
        }
      });
    }
  });
}

void Maddubs16::multiply(int64_t panel, int panels, const TileInput<uint8_t>& input, const int32_t* bias,
                         int32_t* tile) const {
  multiply(panel, panels, input, bias, StoreTile{tile});
}

void Maddubs16::multiply_and_finish(int64_t panel, int panels, const TileInput<uint8_t>& input, const int32_t* bias,
                                    const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) const {
  multiply(panel, panels, input, bias, StoreCodes(epilogue, tile, output.codes));
}

}  // namespace qstep::kernels::avx2
QSTEP_AVX2_END
#endif
