#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <string>
#include <string_view>

#include "kernels/strided.h"
#include "oracle/rounding.h"
#include "qstep/kernels/elementwise/bilinear.h"

namespace qstep::kernels::test {
namespace {

using oracle::Wide;

int64_t oracle_code(const BilinearProblem& p, int a_code, int b_code) {
  const Wide a = a_code - p.zero_code_a;
  const Wide b = b_code - p.zero_code_b;
  const Wide t = p.product * a * b + p.left * a + p.right * b + p.constant;
  const Wide code = oracle::nearest_even(t, oracle::power_of_two(p.shift)) + p.zero_point;
  return static_cast<int64_t>(std::clamp<Wide>(code, p.clamp_min, p.clamp_max));
}

std::vector<BilinearProblem> sample_problems() {
  BilinearProblem add{.left = 12345678,
                      .right = 9876543,
                      .constant = -(int64_t{1} << 22),
                      .shift = 24,
                      .zero_code_a = 17,
                      .zero_code_b = 120,
                      .zero_point = 40};
  BilinearProblem halves{.left = 1, .right = 1, .shift = 1};  // a tie for every second pair
  BilinearProblem quarters{.left = -1,
                           .right = 3,
                           .constant = 1,
                           .shift = 2,
                           .zero_code_b = 30,
                           .zero_point = 128,
                           .clamp_min = 5,
                           .clamp_max = 250};
  BilinearProblem multiply{.product = 70001, .shift = 24, .zero_code_a = 3, .zero_code_b = 0};
  BilinearProblem all_terms{.product = -16777215,
                            .left = 40000001,
                            .right = -123456789,
                            .constant = 987654321,
                            .shift = 31,
                            .zero_code_a = 255,
                            .zero_code_b = 128,
                            .zero_point = 7};
  BilinearProblem largest{.product = int64_t{1} << 35,
                          .left = (int64_t{1} << 42) - 1,
                          .right = -(int64_t{1} << 43),
                          .constant = (int64_t{1} << 51) + 1,
                          .shift = 45};
  BilinearProblem shifted_out{.left = 1000, .right = 1000, .constant = int64_t{1} << 52, .shift = 62};
  BilinearProblem unshifted{.product = 1,
                            .left = -2,
                            .right = 1,
                            .constant = 9,
                            .shift = 0,
                            .zero_code_a = 100,
                            .zero_code_b = 99,
                            .zero_point = 255};
  BilinearProblem by_shift{
      .left = 8, .right = 2, .shift = 4, .zero_code_a = 100, .zero_code_b = 3, .zero_point = 9, .clamp_min = 9};
  BilinearProblem largest_shifts{
      .left = 1 << 22, .right = 1 << 22, .shift = 23, .zero_code_a = 255, .zero_code_b = 0, .zero_point = 128};
  BilinearProblem shifted_left{.left = 1, .right = 1 << 22, .zero_code_a = 7, .zero_code_b = 200, .zero_point = 255};
  BilinearProblem all_shifted_out{.left = 1 << 22, .right = 1, .shift = 62, .zero_code_a = 255, .zero_point = 3};
  BilinearProblem few_codes{.left = 8528921,
                            .right = -4199133,
                            .shift = 23,
                            .quant_max_a = 15,
                            .quant_max_b = 7,
                            .zero_code_a = 3,
                            .zero_code_b = 7,
                            .zero_point = 5,
                            .clamp_max = 15};
  return {add,       halves,   quarters,       multiply,     all_terms,       largest,  shifted_out,
          unshifted, by_shift, largest_shifts, shifted_left, all_shifted_out, few_codes};
}

struct Shape {
  int64_t batch, height, width, channels;
};

/// Which dimensions of b have size 1.
struct Broadcast {
  bool batch = false, height = false, width = false, channels = false;
};

void expect_exact(const BilinearProblem& problem, const Shape& s, const Broadcast& broadcast, bool sliced,
                  std::mt19937& random) {
  validate(problem);
  const auto fill = [&](Strided<uint8_t>& tensor, int32_t quant_max) {
    const auto codes = static_cast<unsigned>(quant_max) + 1;
    tensor.for_each([&](size_t, uint8_t& code) {
      code = static_cast<uint8_t>(random() % 3 == 0 ? (codes - 1) * (random() % 2) : random() % codes);
    });
  };
  Strided<uint8_t> a(make_layout(s.batch, s.height, s.width, s.channels, sliced), 255);
  Strided<uint8_t> b(make_layout(broadcast.batch ? 1 : s.batch, broadcast.height ? 1 : s.height,
                                 broadcast.width ? 1 : s.width, broadcast.channels ? 1 : s.channels, sliced),
                     255);
  fill(a, problem.quant_max_a);
  fill(b, problem.quant_max_b);
  ImageLayout b_layout = b.layout();
  if (broadcast.batch) b_layout.image_stride = 0;
  if (broadcast.height) b_layout.row_stride = 0;
  if (broadcast.width) b_layout.pixel_stride = 0;
  const int64_t b_channel_stride = broadcast.channels ? 0 : 1;

  std::vector<int64_t> expected;
  for (int64_t n = 0; n < s.batch; ++n) {
    for (int64_t c = 0; c < s.channels; ++c) {
      for (int64_t y = 0; y < s.height; ++y) {
        for (int64_t x = 0; x < s.width; ++x) {
          expected.push_back(oracle_code(problem, a.data()[a.layout().offset(n, y, x) + c],
                                         b.data()[b_layout.offset(n, y, x) + c * b_channel_stride]));
        }
      }
    }
  }
  for (const BilinearKernel& kernel : bilinear_kernels()) {
    if (!is_supported(kernel.isa) || !kernel.supports(problem)) continue;
    Strided<uint8_t> output(a.layout(), 91);
    const BilinearArguments arguments{a.data(),         a.layout(),    b.data(),       b_layout,
                                      b_channel_stride, output.data(), output.layout()};
    const int64_t items = s.batch * s.height;
    kernel.run(problem, arguments, {items / 2, items});
    kernel.run(problem, arguments, {0, items / 2});
    ASSERT_EQ(output.difference(expected), "") << kernel.name;
  }
}

/// An addition with coefficients as lowering makes them, and others.
BilinearProblem random_addition(std::mt19937& random) {
  const auto in = [&](int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random); };
  const int64_t bits = in(1, 26);
  const int64_t largest = int64_t{1} << bits;
  const auto quant_max_a = static_cast<int32_t>((1 << in(1, 8)) - 1);
  const auto quant_max_b = static_cast<int32_t>((1 << in(1, 8)) - 1);
  return {.left = in(-largest, largest),
          .right = in(-largest, largest),
          .constant = in(-largest << 8, largest << 8),
          .shift = static_cast<int32_t>(in(0, bits + 4)),
          .quant_max_a = quant_max_a,
          .quant_max_b = quant_max_b,
          .zero_code_a = static_cast<int32_t>(in(0, quant_max_a)),
          .zero_code_b = static_cast<int32_t>(in(0, quant_max_b)),
          .zero_point = static_cast<int32_t>(in(0, 255)),
          .clamp_min = static_cast<int32_t>(in(0, 20)),
          .clamp_max = static_cast<int32_t>(in(200, 255))};
}

TEST(Bilinear, EveryPairOfCodes) {
  const unsigned seed = 20260232;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  std::vector<BilinearProblem> problems = sample_problems();
  for (int i = 0; i < 150; ++i) problems.push_back(random_addition(random));
  std::set<std::string_view> used;
  for (const BilinearProblem& problem : problems) {
    validate(problem);
    std::vector<uint8_t> a(65536), b(65536), output(65536);
    for (size_t i = 0; i < a.size(); ++i) {
      a[i] = static_cast<uint8_t>(i / 256 % static_cast<size_t>(problem.quant_max_a + 1));
      b[i] = static_cast<uint8_t>(i % static_cast<size_t>(problem.quant_max_b + 1));
    }
    const ImageLayout layout = ImageLayout::dense(1, 1, 256, 256);
    for (const BilinearKernel& kernel : bilinear_kernels()) {
      if (!is_supported(kernel.isa) || !kernel.supports(problem)) continue;
      used.insert(kernel.name);
      kernel.run(problem, {a.data(), layout, b.data(), layout, 1, output.data(), layout}, {0, 1});
      for (size_t i = 0; i < a.size(); ++i) {
        ASSERT_EQ(output[i], oracle_code(problem, a[i], b[i])) << kernel.name << ": " << int{a[i]} << ", " << int{b[i]};
      }
    }
  }
  for (const BilinearKernel& kernel : bilinear_kernels()) {
    EXPECT_TRUE(used.contains(kernel.name) || !is_supported(kernel.isa)) << kernel.name << " was never used";
  }
}

// Of all codes, 1 and 0 alone make a sum halfway between two steps: 2^23 of 2^24.
TEST(Bilinear, ATieIsNotRoundedByAShift) {
  if (!is_supported(Isa::avx2)) return;
  BilinearProblem problem{.left = (1 << 23) + 1, .right = 3, .constant = -1, .shift = 24};
  EXPECT_EQ(choose_bilinear(problem, Isa::avx2).name, "bilinear_sum_avx2");
  problem.constant = 0;
  EXPECT_EQ(choose_bilinear(problem, Isa::avx2).name, "bilinear_floor_avx2");
  problem.quant_max_a = problem.quant_max_b = 15;
  EXPECT_EQ(choose_bilinear(problem, Isa::avx2).name, "bilinear_narrow_avx2");
  problem.left = (1 << 23) - 1;   // a little less than half a step, where 15 bits
  problem.right = (1 << 23) + 1;  // do not tell it from a little more
  EXPECT_EQ(choose_bilinear(problem, Isa::avx2).name, "bilinear_floor_avx2");
}

TEST(Bilinear, PowersOfTwoRunAsShifts) {
  const auto chosen = [](const BilinearProblem& problem, Isa isa) { return choose_bilinear(problem, isa).name; };
  BilinearProblem problem{.left = 1 << 22, .right = 1, .shift = 62};
  EXPECT_EQ(chosen(problem, Isa::reference), "bilinear_shift_reference");
  if (is_supported(Isa::avx2)) {
    EXPECT_EQ(chosen(problem, Isa::avx2), "bilinear_shift_avx2");
  }
  for (auto change : std::vector<void (*)(BilinearProblem&)>{
           [](auto& p) { p.left = 3; }, [](auto& p) { p.right = -1; }, [](auto& p) { p.right = 0; },
           [](auto& p) { p.left = 1 << 23; }, [](auto& p) { p.constant = 1; }, [](auto& p) { p.product = 1; }}) {
    BilinearProblem other = problem;
    change(other);
    EXPECT_EQ(chosen(other, Isa::reference), "bilinear_reference");
  }
}

TEST(Bilinear, EveryTailAndBroadcast) {
  const unsigned seed = 20260231;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto problems = sample_problems();
  for (int64_t channels = 1; channels <= 35; ++channels) {  // runs of up to 4 * 35, vectors of 32
    for (int mask = 0; mask < 16; ++mask) {
      const Broadcast broadcast{(mask & 1) != 0, (mask & 2) != 0, (mask & 4) != 0, (mask & 8) != 0};
      for (const bool sliced : {false, true}) {
        expect_exact(problems[random() % problems.size()], {2, 3, 1 + channels % 4, channels}, broadcast, sliced,
                     random);
        ASSERT_FALSE(HasFatalFailure()) << channels << " channels, broadcast " << mask << ", sliced " << sliced;
      }
    }
  }
}

TEST(Bilinear, MayWriteOverAnOperand) {
  std::mt19937 random(1);
  const BilinearProblem problem = sample_problems()[0];
  const ImageLayout layout = ImageLayout::dense(1, 3, 5, 7);
  for (const BilinearKernel& kernel : bilinear_kernels()) {
    if (!is_supported(kernel.isa) || !kernel.supports(problem)) continue;
    std::vector<uint8_t> a(105), b(105);
    std::vector<int64_t> expected(105);
    for (size_t i = 0; i < a.size(); ++i) {
      a[i] = static_cast<uint8_t>(random());
      b[i] = static_cast<uint8_t>(random());
      expected[i] = oracle_code(problem, a[i], b[i]);
    }
    kernel.run(problem, {a.data(), layout, b.data(), layout, 1, a.data(), layout}, {0, 3});
    EXPECT_TRUE(std::ranges::equal(a, expected)) << kernel.name;
  }
}

TEST(Bilinear, EmptyTensors) {
  std::mt19937 random(1);
  expect_exact(sample_problems()[0], {0, 3, 4, 5}, {}, false, random);
  expect_exact(sample_problems()[0], {2, 3, 0, 5}, {}, false, random);
}

TEST(Bilinear, RejectsWhatItDoesNotDescribe) {
  const auto rejects = [](auto change) {
    BilinearProblem problem = sample_problems()[0];
    change(problem);
    EXPECT_THROW(validate(problem), Error);
  };
  rejects([](auto& p) { p.constant = int64_t{1} << 53; });
  rejects([](auto& p) { p.product = int64_t{1} << 39; });
  rejects([](auto& p) { p.left = -(int64_t{1} << 46); });
  rejects([](auto& p) { p.shift = 63; });
  rejects([](auto& p) { p.shift = -1; });
  rejects([](auto& p) { p.zero_code_a = 256; });
  rejects([](auto& p) { p.quant_max_b = 100; });  // below zero_code_b
  rejects([](auto& p) { p.clamp_min = 9, p.clamp_max = 8; });
}

}  // namespace
}  // namespace qstep::kernels::test
