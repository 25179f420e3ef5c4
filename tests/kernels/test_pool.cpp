#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <string>

#include "kernels/strided.h"
#include "oracle/rounding.h"
#include "qstep/core/requantize.h"
#include "qstep/kernels/pool/pool.h"

namespace qstep::kernels::test {
namespace {

using core::Window;
using oracle::Wide;

struct Images {
  int64_t batch, channels, height, width;
  std::vector<uint8_t> codes;  // [N, C, H, W]

  Images(int64_t n, int64_t c, int64_t h, int64_t w, std::mt19937& random, int largest = 255)
      : batch(n), channels(c), height(h), width(w) {
    codes.resize(static_cast<size_t>(n * c * h * w));
    for (uint8_t& code : codes) {
      code = static_cast<uint8_t>(static_cast<int>(random() % static_cast<unsigned>(largest + 1)));
    }
  }
  int at(int64_t plane, int64_t y, int64_t x) const {
    return codes[static_cast<size_t>((plane * height + y) * width + x)];
  }
};

/// One output from the codes of a window's taps (those in the padding left out) and the count of taps within the
/// padded image.
using Reduce = std::function<int64_t(const std::vector<int>& taps, int64_t padded_taps)>;

/// Pools plane by plane: lists the taps of each window, in the image and in the padding, and reduces the list.
std::vector<int64_t> pool(const Images& images, const Window& w, int64_t out_h, int64_t out_w, const Reduce& reduce) {
  std::vector<int64_t> output;
  for (int64_t plane = 0; plane < images.batch * images.channels; ++plane) {
    for (int64_t oy = 0; oy < out_h; ++oy) {
      for (int64_t ox = 0; ox < out_w; ++ox) {
        std::vector<int> taps;
        int64_t padded = 0;
        for (int i = 0; i < w.kernel[0]; ++i) {
          for (int j = 0; j < w.kernel[1]; ++j) {
            const int64_t y = oy * w.stride[0] + i * w.dilation[0] - w.padding[0];
            const int64_t x = ox * w.stride[1] + j * w.dilation[1] - w.padding[1];
            if (y < images.height + w.padding[2] && x < images.width + w.padding[3]) ++padded;
            if (y >= 0 && y < images.height && x >= 0 && x < images.width) taps.push_back(images.at(plane, y, x));
          }
        }
        output.push_back(reduce(taps, padded));
      }
    }
  }
  return output;
}

/// n: the divisor, unless another one overrides it.
int64_t average_oracle(const AvgPool2dProblem& p, const std::vector<int>& taps, int64_t n) {
  Wide sum = 0;
  for (const int tap : taps) sum += Wide{p.multiplier} * (tap - p.zero_code) + p.tap_constant;
  const Wide divisor = p.divisor_override != 0 ? p.divisor_override : n;
  const Wide code = oracle::nearest_even(sum + divisor * p.constant, divisor * oracle::power_of_two(p.shift));
  return static_cast<int64_t>(std::clamp<Wide>(code + p.zero_point, p.clamp_min, p.clamp_max));
}

std::vector<int64_t> adaptive_average(const Images& images, const AvgPool2dProblem& p, int64_t out_h, int64_t out_w) {
  std::vector<int64_t> output;
  for (int64_t plane = 0; plane < images.batch * images.channels; ++plane) {
    for (int64_t oy = 0; oy < out_h; ++oy) {
      for (int64_t ox = 0; ox < out_w; ++ox) {
        std::vector<int> taps;
        for (int64_t y = 0; y < images.height; ++y) {
          for (int64_t x = 0; x < images.width; ++x) {
            // position y is in window oy where floor(oy h / o) <= y < ceil((oy + 1) h / o)
            const bool in_y = oy * images.height < (y + 1) * out_h && (oy + 1) * images.height > y * out_h;
            const bool in_x = ox * images.width < (x + 1) * out_w && (ox + 1) * images.width > x * out_w;
            if (in_y && in_x) taps.push_back(images.at(plane, y, x));
          }
        }
        output.push_back(average_oracle(p, taps, static_cast<int64_t>(taps.size())));
      }
    }
  }
  return output;
}

template <class Kernel, class Problem>
void expect_exact(std::span<const Kernel> kernels, const Problem& problem, const Images& images, int64_t out_h,
                  int64_t out_w, const std::vector<int64_t>& expected) {
  for (const Kernel& kernel : kernels) {
    if (!is_supported(kernel.isa) || !kernel.supports(problem)) continue;
    for (const bool sliced : {false, true}) {
      Strided<uint8_t> input(make_layout(images.batch, images.height, images.width, images.channels, sliced), 255);
      input.assign(images.codes);
      Strided<uint8_t> output(make_layout(images.batch, out_h, out_w, images.channels, sliced), 91);
      validate(problem, input.layout(), output.layout());
      const PoolArguments arguments{input.data(), input.layout(), output.data(), output.layout()};
      const int64_t items = images.batch * out_h;
      kernel.run(problem, arguments, {items / 2, items});
      kernel.run(problem, arguments, {0, items / 2});
      ASSERT_EQ(output.difference(expected), "") << kernel.name << ", " << images.channels << " channels";
    }
  }
}

void check_max(const Images& images, const Window& window, int64_t out_h, int64_t out_w) {
  const auto expected = pool(images, window, out_h, out_w,
                             [](const std::vector<int>& taps, int64_t) { return *std::ranges::max_element(taps); });
  expect_exact(max_pool2d_kernels(), MaxPool2dProblem{window}, images, out_h, out_w, expected);
}

void check_average(const Images& images, const AvgPool2dProblem& problem, int64_t out_h, int64_t out_w) {
  const auto expected =
      problem.adaptive ? adaptive_average(images, problem, out_h, out_w)
                       : pool(images, problem.window, out_h, out_w, [&](const std::vector<int>& taps, int64_t padded) {
                           return average_oracle(
                               problem, taps, problem.count_include_pad ? padded : static_cast<int64_t>(taps.size()));
                         });
  expect_exact(avg_pool2d_kernels(), problem, images, out_h, out_w, expected);
}

AvgPool2dProblem scaled(double factor, double constant) {
  const core::Multiplier m = core::exact_multiplier(factor);
  return {.multiplier = m.multiplier, .constant = std::llround(std::ldexp(constant, m.shift)), .shift = m.shift};
}

TEST(MaxPool2d, EveryChannelTail) {
  std::mt19937 random(20260221);
  for (int64_t channels = 1; channels <= 67; ++channels) {
    check_max(Images(2, channels, 5, 6, random), {{3, 3}, {2, 2}, {1, 1, 1, 1}, {1, 1}}, 3, 3);
    ASSERT_FALSE(HasFatalFailure());
  }
  check_max(Images(1, 257, 3, 3, random), {{3, 3}, {2, 2}, {1, 1, 1, 1}, {1, 1}}, 2, 2);
}

TEST(MaxPool2d, Windows) {
  std::mt19937 random(20260222);
  const Images images(1, 20, 9, 10, random);
  check_max(images, {{2, 2}, {2, 2}, {0, 0, 0, 0}, {1, 1}}, 4, 5);
  check_max(images, {{2, 2}, {2, 2}, {0, 0, 0, 0}, {1, 1}}, 5, 5);  // ceil_mode
  check_max(images, {{3, 2}, {1, 3}, {1, 0, 0, 1}, {1, 1}}, 8, 4);
  check_max(images, {{3, 3}, {1, 1}, {2, 2, 2, 2}, {2, 2}}, 9, 10);  // dilated: taps before the image
  check_max(images, {{9, 10}, {1, 1}, {0, 0, 0, 0}, {1, 1}}, 1, 1);
}

TEST(AvgPool2d, EveryChannelTail) {
  std::mt19937 random(20260223);
  for (int64_t channels = 1; channels <= 75; ++channels) {
    AvgPool2dProblem problem = scaled(0.8, -0.3);
    problem.window = {{3, 3}, {2, 2}, {1, 1, 1, 1}, {1, 1}};
    problem.zero_code = 7;
    problem.zero_point = 20;
    check_average(Images(2, channels, 5, 6, random), problem, 3, 3);
    ASSERT_FALSE(HasFatalFailure());
  }
}

TEST(AvgPool2d, LargeWindows) {
  std::mt19937 random(20260240);
  for (const int64_t size : {16, 17, 33}) {  // 257 codes of 255 fill 16 bits
    AvgPool2dProblem problem = scaled(1.0, 0.0);
    problem.adaptive = true;
    Images images(1, 70, size, size, random);
    check_average(images, problem, 1, 1);
    std::ranges::fill(images.codes, uint8_t{255});
    check_average(images, problem, 1, 1);
  }
}

TEST(AvgPool2d, PaddingAndCeilMode) {
  std::mt19937 random(20260224);
  for (const bool include : {true, false}) {
    for (const int zero_code : {0, 13, 255}) {
      AvgPool2dProblem problem = scaled(1.3, 0.4);
      problem.count_include_pad = include;
      problem.zero_code = zero_code;
      problem.zero_point = 100;
      problem.window = {{3, 2}, {2, 2}, {1, 0, 1, 1}, {1, 1}};
      check_average(Images(1, 17, 9, 10, random), problem, 5, 5);
      problem.window = {{2, 2}, {2, 2}, {0, 0, 0, 0}, {1, 1}};
      check_average(Images(1, 17, 9, 11, random), problem, 5, 6);  // the last windows reach beyond the image
      problem.window = {{3, 3}, {2, 2}, {1, 1, 1, 1}, {1, 1}};
      check_average(Images(1, 17, 6, 6, random), problem, 4, 4);  // and beyond the padding
    }
  }
}

TEST(AvgPool2d, TiesGoToEven) {
  std::mt19937 random(20260225);
  AvgPool2dProblem problem = scaled(1.0, 0.0);
  for (const int taps : {2, 4, 6, 7, 9, 14, 49}) {  // sums of 0 and 1 over an even count: many exact halves
    for (const double factor : {1.0, 0.5, -1.0, 3.0}) {
      problem = scaled(factor, factor == 3.0 ? 0.5 : 0.0);
      problem.zero_point = 128;
      problem.window.kernel[1] = problem.window.stride[1] = taps;
      check_average(Images(1, 64, 1, 8 * taps, random, 3), problem, 1, 8);
    }
  }
}

TEST(AvgPool2d, AnotherDivisor) {
  std::mt19937 random(20260229);
  for (const int divisor : {1, 5, 64, 1 << 20}) {
    AvgPool2dProblem problem = scaled(1.3, -0.4);
    problem.tap_constant = problem.constant / 7 + 1;
    problem.divisor_override = divisor;
    problem.zero_code = 11;
    problem.zero_point = 90;
    for (const bool include : {true, false}) {  // makes no difference
      problem.count_include_pad = include;
      problem.window = {{3, 2}, {2, 2}, {1, 0, 1, 1}, {1, 1}};
      check_average(Images(2, 19, 9, 10, random), problem, 5, 5);
    }
    problem.adaptive = true;
    check_average(Images(1, 19, 6, 8, random), problem, 3, 2);
  }
}

TEST(AvgPool2d, PowersOfTwoAreOneShift) {
  std::mt19937 random(20260230);
  for (const int shift : {0, 1, 4, 9, 31, 40}) {
    for (const int multiplier : {1, 2, 1 << 22}) {
      for (const int divisor : {1, 8, 1 << 20}) {
        AvgPool2dProblem problem{.divisor_override = divisor, .zero_code = 100, .multiplier = multiplier};
        problem.shift = shift;
        problem.zero_point = 77;
        problem.window = {{2, 4}, {1, 2}, {1, 1, 0, 2}, {1, 1}};
        ASSERT_TRUE(is_shift(problem));
        check_average(Images(2, 19, 5, 9, random), problem, 5, 5);
        check_average(Images(1, 7, 5, 9, random, 101), problem, 5, 5);  // sums next to 0
        problem.adaptive = true;
        check_average(Images(1, 8, 6, 4, random), problem, 2, 1);
        ASSERT_FALSE(HasFatalFailure()) << "shift " << shift << ", multiplier " << multiplier << " / " << divisor;
      }
    }
  }
  AvgPool2dProblem problem{.divisor_override = 4, .multiplier = 1};
  EXPECT_EQ(choose_avg_pool2d(problem, Isa::reference).name, "avg_pool2d_shift_reference");
  if (is_supported(Isa::avx2)) {
    EXPECT_EQ(choose_avg_pool2d(problem, Isa::avx2).name, "avg_pool2d_shift_avx2");
  }
  problem.divisor_override = 0;
  EXPECT_EQ(choose_avg_pool2d(problem, Isa::reference).name, "avg_pool2d_reference");
}

TEST(AvgPool2d, Adaptive) {
  std::mt19937 random(20260226);
  AvgPool2dProblem problem = scaled(0.9, 0.1);
  problem.adaptive = true;
  problem.zero_code = 3;
  for (const auto& [h, w, out_h, out_w] :
       {std::array{7, 7, 1, 1}, std::array{7, 5, 3, 2}, std::array{4, 4, 4, 4}, std::array{3, 2, 5, 7}}) {
    check_average(Images(2, 21, h, w, random), problem, out_h, out_w);
  }
}

TEST(AvgPool2d, SmallFactors) {
  std::mt19937 random(20260227);
  for (const double factor : {0x1p-10, 0x1p-20, 0x1p-30}) {
    AvgPool2dProblem problem = scaled(factor, 17.5);
    problem.window.kernel[0] = 3;
    check_average(Images(1, 19, 6, 5, random), problem, 4, 5);
  }
}

TEST(AvgPool2d, NextToATieThatDoublesWouldHit) {
  std::mt19937 random(1);
  for (const int shift : {24, 40, 45, 50, 52}) {
    for (const int code : {0, 3, 100, 101, 254}) {
      for (const int nudge : {-1, 0, 1}) {
        // Inputs of zero: the code is that of constant / 2^shift, half a step plus or minus 2^-shift.
        AvgPool2dProblem problem{
            .multiplier = 1, .constant = (int64_t{2 * code + 1} << (shift - 1)) + nudge, .shift = shift};
        problem.window.kernel[0] = 3;
        check_average(Images(1, 19, 3, 2, random, 0), problem, 1, 2);
        ASSERT_FALSE(HasFatalFailure()) << "shift " << shift << ", code " << code << ", nudge " << nudge;
      }
    }
  }
}

TEST(AvgPool2d, ClampsAreKept) {
  std::mt19937 random(20260228);
  AvgPool2dProblem problem = scaled(2.0, 0.0);
  problem.clamp_min = 30;
  problem.clamp_max = 170;
  problem.zero_point = 10;
  problem.window.kernel[1] = 2;
  check_average(Images(1, 40, 4, 9, random), problem, 4, 8);
}

TEST(Pool, RejectsWhatItDoesNotDescribe) {
  const ImageLayout input = ImageLayout::dense(1, 4, 4, 8);
  const ImageLayout output = ImageLayout::dense(1, 4, 4, 8);
  const auto rejects = [&](auto change) {
    AvgPool2dProblem problem = scaled(1.0, 0.0);
    EXPECT_NO_THROW(validate(problem, input, output));
    change(problem);
    EXPECT_THROW(validate(problem, input, output), Error);
  };
  rejects([](auto& p) { p.multiplier = 1 << 24; });
  rejects([](auto& p) { p.shift = 63; });
  rejects([](auto& p) { p.constant = int64_t{1} << 62; });
  rejects([](auto& p) { p.tap_constant = int64_t{1} << 62; });
  rejects([](auto& p) { p.divisor_override = -1; });
  rejects([](auto& p) { p.divisor_override = 2, p.shift = 62; });
  rejects([](auto& p) { p.window.dilation[0] = 2; });
  rejects([](auto& p) { p.window.stride[0] = 2; });  // the last windows would lie beyond the image
  rejects([](auto& p) { p.clamp_min = 256; });
  rejects([](auto& p) { p.zero_code = -1; });
  EXPECT_THROW(validate(MaxPool2dProblem{{{2, 2}, {1, 1}, {2, 0, 0, 0}, {1, 1}}}, input, output), Error)
      << "a window in the padding";
  EXPECT_THROW(validate(MaxPool2dProblem{}, input, ImageLayout::dense(1, 4, 4, 7)), Error);
  EXPECT_THROW(validate(MaxPool2dProblem{}, input, ImageLayout::dense(2, 4, 4, 8)), Error);
}

}  // namespace
}  // namespace qstep::kernels::test
