#include "qstep/kernels/gemm/x86_avx2.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "qstep/core/error.h"
#include "qstep/kernels/gemm/panel_gemm.h"
#include "qstep/kernels/x86_avx2.h"

#if defined(__x86_64__)
namespace qstep::kernels::avx2 {
namespace {

/// Copies the weights of all groups into panels [groups * panels][steps][tile_columns][depth_step], zero where there
/// are none.
template <int depth_step, class T>
void pack_panels(const GemmProblem& problem, int64_t groups, int64_t steps, AlignedVector<T>& packed) {
  const int64_t group_columns = problem.columns / groups;
  const int64_t panels = ceil_divide(group_columns, tile_columns);
  const int64_t panel_size = steps * tile_columns * depth_step;
  packed.assign(static_cast<size_t>(groups * panels * panel_size), T{0});
  for (int64_t n = 0; n < problem.columns; ++n) {
    const int64_t column = n % group_columns;
    T* panel = packed.data() + (n / group_columns * panels + column / tile_columns) * panel_size;
    for (int64_t k = 0; k < problem.depth; ++k) {
      const int64_t at = (k / depth_step * tile_columns + column % tile_columns) * depth_step + k % depth_step;
      panel[at] = static_cast<T>(problem.weights[static_cast<size_t>(n * problem.depth + k)]);
    }
  }
}

/// The 16-bit lanes of one panel while a window grows.
class WindowProof {
 public:
  explicit WindowProof(int32_t quant_max) : quant_max_(quant_max) {}

  /// True, and the step is in the window, where no lane can leave int16 with it; else nothing changes.
  bool extend(const int8_t* step) {
    Lanes positive = positive_;
    Lanes negative = negative_;
    for (int lane = 0; lane < lanes; ++lane) {
      for (int i = 0; i < 2; ++i) {
        const int32_t w = step[2 * lane + i];
        (w > 0 ? positive[lane] : negative[lane]) += quant_max_ * std::abs(w);
      }
      if (positive[lane] > INT16_MAX || negative[lane] > -INT16_MIN) return false;
    }
    positive_ = positive;
    negative_ = negative;
    return true;
  }

  void restart() { positive_ = negative_ = {}; }

 private:
  static constexpr int lanes = 2 * tile_columns;
  using Lanes = std::array<int32_t, lanes>;

  int32_t quant_max_;
  Lanes positive_{};
  Lanes negative_{};
};

/// Lengths of the longest windows that cover `steps` steps, appended to `windows`; false where one step alone may
/// saturate.
bool cut_windows(const int8_t* panel, int64_t steps, int32_t quant_max, std::vector<int32_t>& windows) {
  WindowProof proof(quant_max);
  int32_t length = 0;
  for (int64_t s = 0; s < steps; ++s, ++length) {
    const int8_t* step = panel + s * tile_columns * Maddubs16::depth_step;
    if (proof.extend(step)) continue;
    if (length == 0) return false;
    windows.push_back(length);
    length = 0;
    proof.restart();
    if (!proof.extend(step)) return false;
  }
  windows.push_back(length);
  return true;
}

}  // namespace

Madd16::Madd16(const GemmProblem& problem, int64_t groups) : steps_(ceil_divide(problem.depth, depth_step)) {
  pack_panels<depth_step>(problem, groups, steps_, weights_);
}

bool Maddubs16::supports(const GemmProblem& problem) {
  // Measured: windows of 2.4 steps on average run at 1.25 times the speed of Madd16. The bound below is an estimate:
  // shorter windows were not measured.
  constexpr int64_t shortest_mean_window = 2;
  if (!std::ranges::all_of(problem.weights, [](int16_t w) { return -128 <= w && w <= 127; })) return false;
  // One group stands for all, and for all sums: its panels hold the same columns, only cut elsewhere.
  const int64_t steps = ceil_divide(problem.depth, depth_step);
  AlignedVector<int8_t> packed;
  GemmProblem all = problem;
  all.columns *= problem.sums();
  pack_panels<depth_step>(all, 1, steps, packed);
  std::vector<int32_t> windows;
  const int64_t panels = ceil_divide(all.columns, tile_columns);
  for (int64_t p = 0; p < panels; ++p) {
    const int8_t* panel = packed.data() + p * steps * tile_columns * depth_step;
    if (!cut_windows(panel, steps, problem.quant_max, windows)) return false;
  }
  return panels * steps >= std::min(steps, shortest_mean_window) * static_cast<int64_t>(windows.size());
}

Maddubs16::Maddubs16(const GemmProblem& problem, int64_t groups) : steps_(ceil_divide(problem.depth, depth_step)) {
  pack_panels<depth_step>(problem, groups, steps_, weights_);
  const size_t panel_size = static_cast<size_t>(steps_) * tile_columns * depth_step;
  for (size_t start = 0; start < weights_.size(); start += panel_size) {
    first_window_.push_back(windows_.size());
    require(cut_windows(weights_.data() + start, steps_, problem.quant_max, windows_),
            "gemm: these weights may saturate vpmaddubsw with inputs up to {}", problem.quant_max);
  }
  first_window_.push_back(windows_.size());
}

void Maddubs16::stage(const uint8_t* input, int64_t count, uint8_t* output) {
  std::memcpy(output, input, static_cast<size_t>(count));
}

}  // namespace qstep::kernels::avx2

QSTEP_AVX2_BEGIN
namespace qstep::kernels::avx2 {
namespace {

constexpr int half_tile = tile_columns / 2;  // columns of one vector of accumulators

template <int rows>
void multiply_madd16(const int16_t* input, int64_t stride, const int16_t* panel, int64_t steps, const int32_t* bias,
                     int32_t* tile) {
  __m256i left[rows];
  __m256i right[rows];
  unroll<rows>([&](auto r) QSTEP_INLINE {
    left[r] = load(bias);
    right[r] = load(bias + half_tile);
  });
  for (int64_t s = 0; s < steps; ++s) {
    const __m256i left_weights = load(panel);
    const __m256i right_weights = load(panel + 2 * half_tile);
    unroll<rows>([&](auto r) QSTEP_INLINE {
      const __m256i codes = broadcast_4_bytes(input + r * stride);
      left[r] = _mm256_add_epi32(left[r], _mm256_madd_epi16(codes, left_weights));
      right[r] = _mm256_add_epi32(right[r], _mm256_madd_epi16(codes, right_weights));
      keep_in_register(left[r]);
      keep_in_register(right[r]);
    });
    input += 2;
    panel += 2 * tile_columns;
  }
  unroll<rows>([&](auto r) QSTEP_INLINE {
    store(tile + r * tile_columns, left[r]);
    store(tile + r * tile_columns + half_tile, right[r]);
  });
}

template <int rows>
void multiply_maddubs16(const uint8_t* input, int64_t stride, const int8_t* panel, const int32_t* window,
                        const int32_t* last_window, const int32_t* bias, int32_t* tile) {
  unroll<rows>([&](auto r) QSTEP_INLINE {
    store(tile + r * tile_columns, load(bias));
    store(tile + r * tile_columns + half_tile, load(bias + half_tile));
  });
  for (; window != last_window; ++window) {
    __m256i left[rows];
    __m256i right[rows];
    unroll<rows>([&](auto r) QSTEP_INLINE { left[r] = right[r] = _mm256_setzero_si256(); });
    for (int32_t s = 0; s < *window; ++s) {
      const __m256i left_weights = load(panel);
      const __m256i right_weights = load(panel + 4 * half_tile);
      unroll<rows>([&](auto r) QSTEP_INLINE {
        const __m256i codes = broadcast_4_bytes(input + r * stride);
        left[r] = _mm256_add_epi16(left[r], _mm256_maddubs_epi16(codes, left_weights));
        right[r] = _mm256_add_epi16(right[r], _mm256_maddubs_epi16(codes, right_weights));
        keep_in_register(left[r]);
        keep_in_register(right[r]);
      });
      input += 4;
      panel += 4 * tile_columns;
    }
    const __m256i ones = _mm256_set1_epi16(1);
    unroll<rows>([&](auto r) QSTEP_INLINE {
      int32_t* row = tile + r * tile_columns;
      store(row, _mm256_add_epi32(load(row), _mm256_madd_epi16(left[r], ones)));
      store(row + half_tile, _mm256_add_epi32(load(row + half_tile), _mm256_madd_epi16(right[r], ones)));
    });
  }
}

/// body(rows) with a constant argument, rows in [1, 6].
template <class Body>
QSTEP_INLINE inline void with_constant_rows(int rows, Body body) {
  switch (rows) {
    case 1:
      return body(std::integral_constant<int, 1>{});
    case 2:
      return body(std::integral_constant<int, 2>{});
    case 3:
      return body(std::integral_constant<int, 3>{});
    case 4:
      return body(std::integral_constant<int, 4>{});
    case 5:
      return body(std::integral_constant<int, 5>{});
    default:
      return body(std::integral_constant<int, 6>{});
  }
}

}  // namespace

void Madd16::multiply(int64_t panel, int rows, const int16_t* input, int64_t stride, const int32_t* bias,
                      int32_t* tile) const {
  const int16_t* weights = weights_.data() + panel * steps_ * tile_columns * depth_step;
  with_constant_rows(rows,
                     [&](auto r) QSTEP_INLINE { multiply_madd16<r>(input, stride, weights, steps_, bias, tile); });
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

void Maddubs16::multiply(int64_t panel, int rows, const uint8_t* input, int64_t stride, const int32_t* bias,
                         int32_t* tile) const {
  const int8_t* weights = weights_.data() + panel * steps_ * tile_columns * depth_step;
  const int32_t* first = windows_.data() + first_window_[static_cast<size_t>(panel)];
  const int32_t* last = windows_.data() + first_window_[static_cast<size_t>(panel) + 1];
  with_constant_rows(
      rows, [&](auto r) QSTEP_INLINE { multiply_maddubs16<r>(input, stride, weights, first, last, bias, tile); });
}

}  // namespace qstep::kernels::avx2
QSTEP_AVX2_END
#endif
