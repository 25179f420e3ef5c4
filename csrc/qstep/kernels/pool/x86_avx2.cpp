#include <cmath>
#include <cstdlib>

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

  template <class Body>
  QSTEP_INLINE void for_each_pixel(Body body) const {
    for (int64_t y = ys.begin; y < ys.end; y += ys.step) {
      for (int64_t x = xs.begin; x < xs.end; x += xs.step) body(image + layout.offset(0, y, x));
    }
  }
};

void max_of_channels(const WindowView& window, int64_t channels, uint8_t* output) {
  const auto block_32 = [&](int64_t c) QSTEP_INLINE {
    __m256i largest = _mm256_setzero_si256();
    window.for_each_pixel([&](const uint8_t* pixel)
                              QSTEP_INLINE { largest = _mm256_max_epu8(largest, load(pixel + c)); });
    store(output + c, largest);
  };
  const auto block_16 = [&](int64_t c) QSTEP_INLINE {
    __m128i largest = _mm_setzero_si128();
    window.for_each_pixel([&](const uint8_t* pixel)
                              QSTEP_INLINE { largest = _mm_max_epu8(largest, load_half(pixel + c)); });
    store_half(output + c, largest);
  };
  if (channels >= 32) {
    for (int64_t c = 0; c + 32 <= channels; c += 32) block_32(c);
    if (channels % 32 != 0) block_32(channels - 32);  // overlaps the block before it
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

  bool is_exact() const { return 255.0 * static_cast<double>(taps_) < 0x1p31; }
  QSTEP_INLINE __m256i steps(__m256i centred) const { return limits_(shift_(centred)); }
  uint8_t code(int64_t sum) const { return average_code_by_shift(problem_, sum, taps_); }

 private:
  const AvgPool2dProblem& problem_;
  int64_t taps_;
  ShiftHalfEven shift_;
  Limits limits_;
};

template <class Average>
void average_of_channels(const AvgPool2dProblem& p, const WindowView& window, int64_t divisor, int64_t channels,
                         uint8_t* output) {
  const int64_t taps = window.ys.count() * window.xs.count();
  const Average average(p, taps, divisor);
  int64_t c = 0;
  if (channels >= 8 && average.is_exact()) {
    const __m256i offset = _mm256_set1_epi32(static_cast<int32_t>(taps * p.zero_code));
    const __m128i zero_point = _mm_set1_epi16(static_cast<int16_t>(p.zero_point));
    while (c < channels) {
      c = std::min(c, channels - 8);  // the last block overlaps the one before it
      __m256i sum = _mm256_setzero_si256();
      window.for_each_pixel([&](const uint8_t* pixel) QSTEP_INLINE {
        sum = _mm256_add_epi32(sum, _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(pixel + c))));
      });
      const __m256i steps = average.steps(_mm256_sub_epi32(sum, offset));
      const __m128i low = _mm256_castsi256_si128(steps);
      const __m128i high = _mm256_extracti128_si256(steps, 1);
      _mm_storel_epi64(reinterpret_cast<__m128i*>(output + c), pack_codes(low, high, low, high, zero_point));
      c += 8;
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
  for (int64_t item = items.begin; item < items.end; ++item) {
    const int64_t image = item / out.height;
    const int64_t row = item % out.height;
    const AverageTaps ys = average_taps(problem, 0, row, in.height, out.height);
    for (int64_t column = 0; column < out.width; ++column) {
      const AverageTaps xs = average_taps(problem, 1, column, in.width, out.width);
      average_of_channels<Average>(problem, {arguments.input + image * in.image_stride, in, ys.inside, xs.inside},
                                   divisor(problem, ys, xs), out.channels,
                                   arguments.output + out.offset(image, row, column));
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
