#include <cmath>
#include <optional>

#include "qstep/kernels/pool/kernels.h"
#include "qstep/kernels/pool/taps.h"
#include "qstep/kernels/x86_avx2.h"
#include "qstep/kernels/x86_avx2_shift.h"

#if defined(__x86_64__)
QSTEP_AVX2_BEGIN
namespace qstep::kernels {
namespace {

using namespace avx2;

/// One window: its taps and the channels of the pixels they are in.
struct WindowView {
  const uint8_t* image;
  const ImageLayout& layout;
  Taps ys;
  Taps xs;

  int64_t taps() const { return ys.count() * xs.count(); }

  template <class Body>
  QSTEP_INLINE void for_each_pixel(Body body) const {
    const int64_t step = xs.step * layout.pixel_stride;
    const int64_t columns = xs.count();
    for (int64_t y = ys.begin; y < ys.end; y += ys.step) {
      const uint8_t* pixel = image + layout.offset(0, y, xs.begin);
      for (int64_t x = 0; x < columns; ++x, pixel += step) body(pixel);
    }
  }
};

template <int vectors>
QSTEP_INLINE inline void max_of_vectors(const WindowView& window, int64_t c, uint8_t* output) {
  __m256i largest[vectors];
  unroll<vectors>([&](auto v) QSTEP_INLINE { largest[v] = _mm256_setzero_si256(); });
  window.for_each_pixel([&](const uint8_t* pixel) QSTEP_INLINE {
    unroll<vectors>([&](auto v) QSTEP_INLINE { largest[v] = _mm256_max_epu8(largest[v], load(pixel + c + 32 * v)); });
  });
  unroll<vectors>([&](auto v) QSTEP_INLINE { store(output + c + 32 * v, largest[v]); });
}

void max_of_channels(const WindowView& window, int64_t channels, uint8_t* output) {
  const auto block_16 = [&](int64_t c) QSTEP_INLINE {
    __m128i largest = _mm_setzero_si128();
    window.for_each_pixel([&](const uint8_t* pixel)
                              QSTEP_INLINE { largest = _mm_max_epu8(largest, load_half(pixel + c)); });
    store_half(output + c, largest);
  };
  if (channels >= 32) {
    int64_t c = 0;
    for (; c + 128 <= channels; c += 128) max_of_vectors<4>(window, c, output);
    for (; c + 64 <= channels; c += 64) max_of_vectors<2>(window, c, output);
    for (; c + 32 <= channels; c += 32) max_of_vectors<1>(window, c, output);
    if (c < channels) max_of_vectors<1>(window, channels - 32, output);  // overlaps the block before it
  } else if (channels >= 16) {
    block_16(0);
    block_16(channels - 16);
  } else {
    for (int64_t c = 0; c < channels; ++c) {
      uint8_t largest = 0;
      window.for_each_pixel([&](const uint8_t* pixel) QSTEP_INLINE { largest = std::max(largest, pixel[c]); });
      output[c] = largest;
    }
  }
}

/// From the sums of a window's codes to codes, eight channels at a time, where is_exact.
class AverageByDivision {
 public:
  AverageByDivision(const AvgPool2dProblem& p, int64_t taps, int64_t divisor)
      : problem_(p),
        taps_(taps),
        divisor_(divisor),
        multiplier_(_mm256_set1_pd(p.multiplier)),
        added_(_mm256_set1_pd(static_cast<double>(taps * p.tap_constant + divisor * p.constant))),
        divided_by_(_mm256_set1_pd(std::ldexp(static_cast<double>(divisor), p.shift))),
        low_(_mm256_set1_pd(p.clamp_min - p.zero_point)),
        high_(_mm256_set1_pd(p.clamp_max - p.zero_point)) {}

  bool is_of(int64_t taps, int64_t divisor) const { return taps_ == taps && divisor_ == divisor; }

  /// True where doubles give the defined result: all integers are exact, and a quotient of numerators below 2^52 that is
  /// not a tie cannot become one by its rounding (docs/numerics.md).
  bool is_exact() const {
    const auto magnitude = [](int64_t x) { return std::fabs(static_cast<double>(x)); };
    const double largest_sum = 255.0 * static_cast<double>(taps_);
    const double numerator = largest_sum * magnitude(problem_.multiplier) +
                             static_cast<double>(taps_) * magnitude(problem_.tap_constant) +
                             static_cast<double>(divisor_) * magnitude(problem_.constant);
    return largest_sum < 0x1p31 && numerator < 0x1p52;
  }

  /// (multiplier * centred + added) / divisor, one rounding.
  QSTEP_INLINE __m256i steps(__m256i centred) const {
    return _mm256_set_m128i(four(_mm256_extracti128_si256(centred, 1)), four(_mm256_castsi256_si128(centred)));
  }

  uint8_t code(int64_t sum) const { return average_code(problem_, sum, taps_, divisor_); }

 private:
  QSTEP_INLINE __m128i four(__m128i centred) const {
    const __m256d sum = _mm256_add_pd(_mm256_mul_pd(_mm256_cvtepi32_pd(centred), multiplier_), added_);
    return _mm256_cvtpd_epi32(_mm256_min_pd(_mm256_max_pd(_mm256_div_pd(sum, divided_by_), low_), high_));
  }

  const AvgPool2dProblem& problem_;
  int64_t taps_;
  int64_t divisor_;
  __m256d multiplier_;
  __m256d added_;
  __m256d divided_by_;
  __m256d low_;
  __m256d high_;
};

/// The same where is_shift(problem).
class AverageByShift {
 public:
  AverageByShift(const AvgPool2dProblem& p, int64_t taps, int64_t)
      : problem_(p),
        taps_(taps),
        shift_(shift_of(p)),
        limits_{_mm256_set1_epi32(p.clamp_min - p.zero_point), _mm256_set1_epi32(p.clamp_max - p.zero_point)} {}

  bool is_of(int64_t taps, int64_t) const { return taps_ == taps; }
  bool is_exact() const { return 255.0 * static_cast<double>(taps_) < 0x1p31; }
  QSTEP_INLINE __m256i steps(__m256i centred) const { return limits_(shift_(centred)); }
  uint8_t code(int64_t sum) const { return average_code_by_shift(problem_, sum, taps_); }

 private:
  const AvgPool2dProblem& problem_;
  int64_t taps_;
  ShiftHalfEven shift_;
  Limits limits_;
};

/// Sums of a window's codes in 32 channels from c on, eight to a vector.
QSTEP_INLINE inline void sum_32_channels(const WindowView& window, int64_t c, __m256i (&sums)[4]) {
  const __m256i zero = _mm256_setzero_si256();
  // In int16 first, where 257 codes fit.
  __m256i low = zero;   // channels 0..7 and 16..23
  __m256i high = zero;  // channels 8..15 and 24..31
  unroll<4>([&](auto i) QSTEP_INLINE { sums[i] = zero; });
  const auto widen = [&]() QSTEP_INLINE {
    const auto add = [](__m256i& sum, __m128i words)
                         QSTEP_INLINE { sum = _mm256_add_epi32(sum, _mm256_cvtepu16_epi32(words)); };
    add(sums[0], _mm256_castsi256_si128(low));
    add(sums[1], _mm256_castsi256_si128(high));
    add(sums[2], _mm256_extracti128_si256(low, 1));
    add(sums[3], _mm256_extracti128_si256(high, 1));
    low = high = zero;
  };
  int room = 257;
  window.for_each_pixel([&](const uint8_t* pixel) QSTEP_INLINE {
    const __m256i codes = load(pixel + c);
    low = _mm256_add_epi16(low, _mm256_unpacklo_epi8(codes, zero));
    high = _mm256_add_epi16(high, _mm256_unpackhi_epi8(codes, zero));
    if (--room == 0) {
      widen();
      room = 257;
    }
  });
  widen();
}

QSTEP_INLINE inline __m256i sum_8_channels(const WindowView& window, int64_t c) {
  __m256i sum = _mm256_setzero_si256();
  window.for_each_pixel([&](const uint8_t* pixel) QSTEP_INLINE {
    sum = _mm256_add_epi32(sum, _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(pixel + c))));
  });
  return sum;
}

template <class Average>
void average_of_channels(const AvgPool2dProblem& p, const Average& average, const WindowView& window, int64_t channels,
                         uint8_t* output) {
  int64_t c = 0;
  if (channels >= 8 && average.is_exact()) {
    const __m256i offset = _mm256_set1_epi32(static_cast<int32_t>(window.taps() * p.zero_code));
    const __m128i zero_point = _mm_set1_epi16(static_cast<int16_t>(p.zero_point));
    const auto store_8 = [&](int64_t channel, __m256i sum) QSTEP_INLINE {
      const __m256i steps = average.steps(_mm256_sub_epi32(sum, offset));
      const __m128i low = _mm256_castsi256_si128(steps);
      const __m128i high = _mm256_extracti128_si256(steps, 1);
      _mm_storel_epi64(reinterpret_cast<__m128i*>(output + channel), pack_codes(low, high, low, high, zero_point));
    };
    for (; c + 32 <= channels; c += 32) {
      __m256i sums[4];
      sum_32_channels(window, c, sums);
      unroll<4>([&](auto i) QSTEP_INLINE { store_8(c + 8 * i, sums[i]); });
    }
    for (; c < channels; c += 8) {
      c = std::min(c, channels - 8);  // the last block overlaps the one before it
      store_8(c, sum_8_channels(window, c));
    }
  }
  for (; c < channels; ++c) {
    int64_t sum = 0;
    window.for_each_pixel([&](const uint8_t* pixel) QSTEP_INLINE { sum += pixel[c]; });
    output[c] = average.code(sum);
  }
}

template <class Average>
void avg_pool2d(const AvgPool2dProblem& problem, const PoolArguments& arguments, Range items) {
  const ImageLayout& in = arguments.input_layout;
  const ImageLayout& out = arguments.output_layout;
  std::optional<Average> average;  // of the window before: most have as many taps
  for (int64_t item = items.begin; item < items.end; ++item) {
    const int64_t image = item / out.height;
    const int64_t row = item % out.height;
    const AverageTaps ys = average_taps(problem, 0, row, in.height, out.height);
    for (int64_t column = 0; column < out.width; ++column) {
      const AverageTaps xs = average_taps(problem, 1, column, in.width, out.width);
      const WindowView window{arguments.input + image * in.image_stride, in, ys.inside, xs.inside};
      if (!average || !average->is_of(window.taps(), divisor(problem, ys, xs))) {
        average.emplace(problem, window.taps(), divisor(problem, ys, xs));
      }
      average_of_channels(problem, *average, window, out.channels, arguments.output + out.offset(image, row, column));
    }
  }
}

}  // namespace

void max_pool2d_avx2(const MaxPool2dProblem& problem, const PoolArguments& arguments, Range items) {
  const ImageLayout& in = arguments.input_layout;
  const ImageLayout& out = arguments.output_layout;
  for (int64_t item = items.begin; item < items.end; ++item) {
    const int64_t image = item / out.height;
    const int64_t row = item % out.height;
    const Taps ys = window_taps(problem.window, 0, row, in.height);
    for (int64_t column = 0; column < out.width; ++column) {
      const Taps xs = window_taps(problem.window, 1, column, in.width);
      max_of_channels({arguments.input + image * in.image_stride, in, ys, xs}, out.channels,
                      arguments.output + out.offset(image, row, column));
    }
  }
}

void avg_pool2d_avx2(const AvgPool2dProblem& problem, const PoolArguments& arguments, Range items) {
  avg_pool2d<AverageByDivision>(problem, arguments, items);
}

void avg_pool2d_shift_avx2(const AvgPool2dProblem& problem, const PoolArguments& arguments, Range items) {
  avg_pool2d<AverageByShift>(problem, arguments, items);
}

}  // namespace qstep::kernels
QSTEP_AVX2_END
#endif
