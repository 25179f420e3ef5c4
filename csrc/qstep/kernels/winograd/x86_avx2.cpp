#include "qstep/kernels/winograd/x86_avx2.h"

#include <span>

#include "qstep/core/error.h"
#include "qstep/kernels/gemm/int16_windows.h"
#include "qstep/kernels/gemm/x86_avx2.h"
#include "qstep/kernels/winograd/winograd_conv2d.h"
#include "qstep/kernels/x86_avx2.h"

#if defined(__x86_64__)
namespace qstep::kernels::winograd::avx2 {
namespace {

/// Windows of steps (gemm/int16_windows.h) of every `stride`th panel and all positions, whose data lies in
/// [0, 4 * quant_max]. False where one step alone may saturate.
bool cut_windows(const Conv2dProblem& problem, std::vector<int32_t>& windows, std::vector<size_t>& first_window,
                 int64_t stride = 1) {
  const WeightLayout layout = weight_layout<Maddubs16>(problem);
  for (int64_t panel = 0; panel < layout.panels(); panel += stride) {
    const std::vector<int16_t> weights = transform_panel(problem, layout, panel);
    for (int64_t p = 0; p < positions; ++p) {
      first_window.push_back(windows.size());
      const auto size = static_cast<size_t>(layout.position_size());
      const std::span matrix = std::span(weights).subspan(static_cast<size_t>(p) * size, size);
      const std::vector<int32_t> lengths = kernels::cut_windows<int16_t>(matrix, 4 * problem.quant_max);
      if (lengths.empty()) return false;
      windows.insert(windows.end(), lengths.begin(), lengths.end());
    }
  }
  first_window.push_back(windows.size());
  return true;
}

}  // namespace

template <>
bool Madd16<Stride1>::supports(const Conv2dProblem& problem) {
  return problem.in_channels >= lanes;
}

template <>
bool Madd16<Stride1>::suits(const Conv2dProblem& problem) {
  // Of the direct kernel on vpmaddwd, measured with 64 to 512 channels; images of 7x7 set it, larger ones take less.
  constexpr double cost = 0.53;
  return kernels::avx2::Maddubs16::relative_cost(as_gemm(problem)) > cost;
}

template <>
bool Madd16<Stride2>::supports(const Conv2dProblem& problem) {
  return problem.in_channels % lanes == 0;
}

template <>
bool Madd16<Stride2>::suits(const Conv2dProblem& problem) {
  // Measured as above, with 16 to 256 channels. With 512 and outputs of 7x7 the transforms take more than is saved.
  constexpr double cost = 0.8;
  constexpr int64_t most_channels = 256;
  return problem.in_channels <= most_channels && kernels::avx2::Maddubs16::relative_cost(as_gemm(problem)) > cost;
}

bool ByteArithmetic::supports(const Conv2dProblem& problem) { return problem.in_channels >= lanes && fits(problem); }

bool Maddubs16::supports(const Conv2dProblem& problem) {
  std::vector<int32_t> windows;
  std::vector<size_t> first_window;
  return ByteArithmetic::supports(problem) && cut_windows(problem, windows, first_window);
}

bool Maddubs16::suits(const Conv2dProblem& problem) {
  constexpr int64_t shortest_mean_window = 2;
  constexpr int64_t samples = 8;  // a few panels stand for all
  const WeightLayout layout = weight_layout<Maddubs16>(problem);
  std::vector<int32_t> windows;
  std::vector<size_t> first_window;
  cut_windows(problem, windows, first_window, ceil_divide(layout.panels(), samples));
  const auto matrices = static_cast<int64_t>(first_window.size()) - 1;
  return matrices * layout.steps() >= shortest_mean_window * static_cast<int64_t>(windows.size());
}

Maddubs16::Maddubs16(const Conv2dProblem& problem) {
  require(cut_windows(problem, windows_, first_window_),
          "winograd: these weights may saturate vpmaddubsw with codes up to {}", problem.quant_max);
}

}  // namespace qstep::kernels::winograd::avx2

QSTEP_AVX2_BEGIN
namespace qstep::kernels::winograd::avx2 {
namespace {

using kernels::avx2::add_int16;
using kernels::avx2::add_int32;
using kernels::avx2::broadcast_4_bytes;
using kernels::avx2::load;
using kernels::avx2::load_half;
using kernels::avx2::store;
using kernels::avx2::unroll;

struct Sums {
  using Vector = __m256i;
  static constexpr int count = 8;

  QSTEP_INLINE static Vector load(const void* p) { return kernels::avx2::load(p); }
  QSTEP_INLINE static void store(void* p, Vector x) { kernels::avx2::store(p, x); }
  QSTEP_INLINE static Vector add(Vector a, Vector b) { return _mm256_add_epi32(a, b); }
  QSTEP_INLINE static Vector subtract(Vector a, Vector b) { return _mm256_sub_epi32(a, b); }
  QSTEP_INLINE static Vector quarter(Vector x) { return _mm256_srai_epi32(x, 2); }
};

#include "qstep/kernels/winograd/x86_kernels.inc"

struct Bytes {
  using Vector = __m256i;
  using Data = uint8_t;
  using Weight = int8_t;
  static constexpr int count = 32;

  QSTEP_INLINE static Vector load_codes(const uint8_t* p) { return load(p); }
  QSTEP_INLINE static Vector load_taps(const int8_t* p) { return load(p); }
  QSTEP_INLINE static void store(void* p, Vector x) { kernels::avx2::store(p, x); }
  QSTEP_INLINE static Vector add(Vector a, Vector b) { return _mm256_add_epi8(a, b); }
  QSTEP_INLINE static Vector subtract(Vector a, Vector b) { return _mm256_sub_epi8(a, b); }
  QSTEP_INLINE static Vector broadcast(int32_t x) { return _mm256_set1_epi8(static_cast<char>(x)); }
};

struct Words {
  using Vector = __m256i;
  using Data = int16_t;
  using Weight = int16_t;
  static constexpr int count = 16;

  QSTEP_INLINE static Vector load_codes(const uint8_t* p) { return _mm256_cvtepu8_epi16(load_half(p)); }
  QSTEP_INLINE static Vector load_taps(const int8_t* p) { return _mm256_cvtepi8_epi16(load_half(p)); }
  QSTEP_INLINE static void store(void* p, Vector x) { kernels::avx2::store(p, x); }
  QSTEP_INLINE static Vector add(Vector a, Vector b) { return _mm256_add_epi16(a, b); }
  QSTEP_INLINE static Vector subtract(Vector a, Vector b) { return _mm256_sub_epi16(a, b); }
  QSTEP_INLINE static Vector broadcast(int32_t x) { return _mm256_set1_epi16(static_cast<int16_t>(x)); }
};

struct Madd {
  using Data = int16_t;
  using Weight = int16_t;

  QSTEP_INLINE static void accumulate(__m256i& sums, __m256i values, __m256i weights) {
    add_int32(sums, _mm256_madd_epi16(values, weights));
  }
};

struct VnniDot {
  using Data = uint8_t;
  using Weight = int8_t;

  /// Written out: an intrinsic of AVX-VNNI may not be inlined here.
  QSTEP_INLINE static void accumulate(__m256i& sums, __m256i values, __m256i weights) {
    __m256i kept = sums;
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(kept) : "x"(values), "x"(weights));
    sums = kept;
  }
};

constexpr int half_tile = Sums::count;

template <int rows>
void multiply_maddubs16(const uint8_t* data, const Product<uint8_t, int8_t>& product, int tiles,
                        std::span<const int32_t> windows, int32_t* sums) {
  const __m256i ones = _mm256_set1_epi16(1);
  for (; tiles > 0; --tiles, data += rows * product.patch_stride, sums += rows * tile_columns) {
    const uint8_t* values_at = data;
    const int8_t* weights = product.weights;
    const int32_t* before = product.start;  // what the window adds to
    int64_t before_stride = 0;
    for (const int32_t window : windows) {
      __m256i left[rows];
      __m256i right[rows];
      unroll<rows>([&](auto r) QSTEP_INLINE { left[r] = right[r] = _mm256_setzero_si256(); });
      for (int32_t s = 0; s < window; ++s, values_at += 4, weights += 4 * tile_columns) {
        const __m256i left_weights = load(weights);
        const __m256i right_weights = load(weights + 4 * half_tile);
        unroll<rows>([&](auto r) QSTEP_INLINE {
          const __m256i values = broadcast_4_bytes(values_at + r * product.patch_stride);
          add_int16(left[r], _mm256_maddubs_epi16(values, left_weights));
          add_int16(right[r], _mm256_maddubs_epi16(values, right_weights));
        });
      }
      unroll<rows>([&](auto r) QSTEP_INLINE {
        const int32_t* from = before + r * before_stride;
        store(sums + r * tile_columns, _mm256_add_epi32(load(from), _mm256_madd_epi16(left[r], ones)));
        store(sums + r * tile_columns + half_tile,
              _mm256_add_epi32(load(from + half_tile), _mm256_madd_epi16(right[r], ones)));
      });
      before = sums;
      before_stride = tile_columns;
    }
  }
}

}  // namespace

template <class Scheme>
void Madd16<Scheme>::transform_kernels(const int8_t* kernels, int64_t size, int16_t* weights, int64_t plane_stride) {
  transform_vectors<Scheme, Words>(kernels, size, weights, plane_stride);
}

template <class Scheme>
void Madd16<Scheme>::transform_input(const PatchRow& row, int64_t channels, int32_t data_offset, int16_t* data,
                                     int64_t patch_stride, int64_t plane_stride) {
  transform_channels<Scheme, Words>(row, channels, data_offset, data, patch_stride, plane_stride);
}

template <class Scheme>
void Madd16<Scheme>::multiply(int64_t, const Product<int16_t, int16_t>& product) const {
  multiply_dot<Madd16::tile_rows, Madd>(product);
}

void ByteArithmetic::transform_kernels(const int8_t* kernels, int64_t size, int8_t* weights, int64_t plane_stride) {
  transform_vectors<Stride1, Bytes>(kernels, size, weights, plane_stride);
}

void ByteArithmetic::transform_input(const PatchRow& row, int64_t channels, int32_t data_offset, uint8_t* data,
                                     int64_t patch_stride, int64_t plane_stride) {
  transform_channels<Stride1, Bytes>(row, channels, data_offset, data, patch_stride, plane_stride);
}

void Maddubs16::multiply(int64_t matrix, const Product<uint8_t, int8_t>& product) const {
  const size_t first_window = first_window_[static_cast<size_t>(matrix)];
  const size_t last_window = first_window_[static_cast<size_t>(matrix) + 1];
  const auto windows = std::span(windows_).subspan(first_window, last_window - first_window);
  for_each_run_of_tiles<tile_rows>(product.count, [&](int first, int tiles, auto rows) {
    multiply_maddubs16<rows>(product.data + first * product.patch_stride, product, tiles, windows,
                             product.sums + first * columns);
  });
}

template <class Scheme>
int Arithmetic<Scheme>::transform_output(const PatchSums& patches, int32_t* accumulators) {
  return transform_sums<Scheme>(patches, accumulators);
}

template struct Arithmetic<Stride1>;
template struct Arithmetic<Stride2>;
template class Madd16<Stride1>;
template class Madd16<Stride2>;

}  // namespace qstep::kernels::winograd::avx2

namespace qstep::kernels::winograd::avxvnni {

void Dpbusd::multiply(int64_t, const Product<uint8_t, int8_t>& product) const {
  avx2::multiply_dot<tile_rows, avx2::VnniDot>(product);
}

}  // namespace qstep::kernels::winograd::avxvnni
QSTEP_AVX2_END
#endif
