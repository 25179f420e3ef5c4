#include "qstep/kernels/pool/pool.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>

#include "qstep/core/error.h"
#include "qstep/kernels/pool/taps.h"

namespace qstep::kernels {
namespace {

void validate_layouts(const ImageLayout& input, const ImageLayout& output, std::string_view operation) {
  require(output.channels == input.channels, "{}: output must have the {} channels of the input, got {}", operation,
          input.channels, output.channels);
  require(output.batch == input.batch, "{}: output must have the batch of the input, {}, got {}", operation,
          input.batch, output.batch);
}

void validate_window(const core::Window& window, std::string_view operation) {
  for (int d = 0; d < 2; ++d) {
    require(window.kernel[d] >= 1 && window.stride[d] >= 1 && window.dilation[d] >= 1,
            "{}: kernel, stride and dilation must be at least 1, got {}, {} and {}", operation, window.kernel[d],
            window.stride[d], window.dilation[d]);
    require(window.padding[d] >= 0 && window.padding[d + 2] >= 0, "{}: padding must be at least 0, got {} and {}",
            operation, window.padding[d], window.padding[d + 2]);
  }
}

}  // namespace

void validate(const MaxPool2dProblem& problem, const ImageLayout& input, const ImageLayout& output) {
  validate_window(problem.window, "max_pool2d");
  validate_layouts(input, output, "max_pool2d");
  for (int d = 0; d < 2; ++d) {
    const int64_t size = d == 0 ? input.height : input.width;
    const int64_t count = d == 0 ? output.height : output.width;
    for (int64_t i = 0; i < count; ++i) {
      require(window_taps(problem.window, d, i, size).count() > 0,
              "max_pool2d: output position {} of dimension {} has a window without a tap", i, d);
    }
  }
}

void validate(const AvgPool2dProblem& p, const ImageLayout& input, const ImageLayout& output) {
  validate_window(p.window, "avg_pool2d");
  require(p.window.dilation[0] == 1 && p.window.dilation[1] == 1, "avg_pool2d: dilation must be 1, got {} and {}",
          p.window.dilation[0], p.window.dilation[1]);
  validate_layouts(input, output, "avg_pool2d");
  require(0 <= p.zero_code && p.zero_code <= 255, "avg_pool2d: zero_code must be in [0, 255], got {}", p.zero_code);
  require(0 <= p.zero_point && p.zero_point <= 255, "avg_pool2d: zero_point must be in [0, 255], got {}", p.zero_point);
  require(0 <= p.clamp_min && p.clamp_min <= p.clamp_max && p.clamp_max <= 255,
          "avg_pool2d: clamp must satisfy 0 <= clamp_min <= clamp_max <= 255, got [{}, {}]", p.clamp_min, p.clamp_max);
  require(std::abs(int64_t{p.multiplier}) < (1 << 24), "avg_pool2d: multiplier must be of magnitude below 2^24, got {}",
          p.multiplier);
  require(0 <= p.shift && p.shift <= 62, "avg_pool2d: shift must be in [0, 62], got {}", p.shift);
  require(p.divisor_override >= 0, "avg_pool2d: divisor_override must be at least 0, got {}", p.divisor_override);
  int64_t most_taps = 1;
  for (int d = 0; d < 2; ++d) {
    const int64_t size = d == 0 ? input.height : input.width;
    const int64_t count = d == 0 ? output.height : output.width;
    int64_t most = 0;
    for (int64_t i = 0; i < count; ++i) {
      const AverageTaps taps = average_taps(p, d, i, size, count);
      require(taps.inside.count() > 0, "avg_pool2d: output position {} of dimension {} has a window without a tap", i,
              d);
      most = std::max(most, std::max(taps.counted, taps.inside.count()));
    }
    most_taps *= most;
  }
  // In long double, whose 64 bits hold the bounds, the products cannot overflow.
  const auto magnitude = [](int64_t x) { return std::fabs(static_cast<long double>(x)); };
  const long double divisor = p.divisor_override > 0 ? p.divisor_override : most_taps;
  require(std::ldexp(divisor, p.shift) <= 0x1p62L,
          "avg_pool2d: shift {} is too large for a divisor of {}: divisor << shift must be at most 2^62", p.shift,
          divisor);
  const long double taps = most_taps;
  require(
      taps * (255 * magnitude(p.multiplier) + magnitude(p.tap_constant)) + divisor * magnitude(p.constant) < 0x1p62L,
      "avg_pool2d: tap_constant {} or constant {} is too large for windows of {} taps: "
      "taps * (255 |multiplier| + |tap_constant|) + divisor * |constant| must be below 2^62",
      p.tap_constant, p.constant, most_taps);
}

bool is_shift(const AvgPool2dProblem& p) {
  const auto is_power_of_two = [](int32_t x) { return x > 0 && std::has_single_bit(static_cast<uint32_t>(x)); };
  return p.constant == 0 && p.tap_constant == 0 && is_power_of_two(p.multiplier) && is_power_of_two(p.divisor_override);
}

int shift_of(const AvgPool2dProblem& p) {
  return p.shift + std::countr_zero(static_cast<uint32_t>(p.divisor_override)) -
         std::countr_zero(static_cast<uint32_t>(p.multiplier));
}

}  // namespace qstep::kernels
