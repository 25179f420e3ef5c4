#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "qstep/kernels/gemm/int16_windows.h"

namespace qstep::kernels::test {
namespace {

using Panel = std::vector<int8_t>;

int64_t steps_of(const Panel& panel) { return static_cast<int64_t>(panel.size()) / step_weights; }

/// Weights of a normal distribution whose largest magnitude is about 127 for a deviation of 36.
Panel normal_panel(int64_t steps, double deviation, std::mt19937& random) {
  std::normal_distribution<double> distribution(0, deviation);
  Panel panel(static_cast<size_t>(steps * step_weights));
  for (int8_t& w : panel) w = static_cast<int8_t>(std::lround(std::clamp(distribution(random), -128.0, 127.0)));
  return panel;
}

/// Both ends of a lane's sum over steps [first, end), each reached by some input, and checked after every pair: the
/// instruction saturates there.
bool stays_in_int16(const int8_t* weights, int64_t step_size, int64_t first, int64_t end, int lane, int quant_max) {
  int low = 0;
  int high = 0;
  for (int64_t s = first; s < end; ++s) {
    for (int i = 0; i < 2; ++i) {
      const int product = quant_max * weights[s * step_size + 2 * lane + i];
      (product < 0 ? low : high) += product;
    }
  }
  return -32768 <= low && high <= 32767;
}

bool all_lanes_stay(const Panel& panel, int64_t first, int64_t end, int quant_max) {
  for (int lane = 0; lane < 2 * tile_columns; ++lane) {
    if (!stays_in_int16(panel.data(), step_weights, first, end, lane, quant_max)) return false;
  }
  return true;
}

/// Empty where `plan` sums `panel` exactly, else what is wrong.
std::string flaw(const Int16Windows& plan, const Panel& panel, const Panel& original, int quant_max) {
  int64_t covered = 0;
  const auto take = [&](int64_t length) {
    const int64_t end = std::min(covered + length, steps_of(panel));
    const bool fits = all_lanes_stay(panel, covered, end, quant_max);
    covered = end;
    return fits;
  };
  bool fits = true;
  if (plan.window == 0) {
    for (const int32_t length : plan.lengths) fits &= take(length);
  } else {
    while (covered < steps_of(panel)) fits &= take(plan.window);
  }
  if (covered != steps_of(panel)) return "windows do not cover the panel";
  if (!fits) return "a window may leave int16";

  std::vector<int> sum(panel.begin(), panel.end());
  for (int half = 0; half < 2; ++half) {
    for (const ExcessStep& e : plan.excess[half]) {
      for (int lane = 0; lane < half_weights / 2; ++lane) {
        if (!stays_in_int16(e.weights, half_weights, 0, 1, lane, quant_max)) return "an excess may leave int16";
      }
      for (int i = 0; i < half_weights; ++i) {
        sum[static_cast<size_t>(e.step * step_weights + half * half_weights + i)] += e.weights[i];
      }
    }
  }
  return std::ranges::equal(sum, original) ? "" : "panel and excess do not add up to the weights";
}

TEST(Int16Windows, EveryPlanIsSafeAndAddsUp) {
  const unsigned seed = 20260301;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (const int quant_max : {1, 3, 15, 63, 127, 255}) {
    for (const double deviation : {0.5, 4.0, 15.0, 25.0, 36.0, 60.0, 1000.0}) {
      for (const int64_t steps : {1, 2, 7, 33, 144}) {
        const Panel original = normal_panel(steps, deviation, random);
        Panel panel = original;
        const Int16Windows plan = plan_int16_windows(panel, quant_max);
        EXPECT_EQ(flaw(plan, panel, original, quant_max), "")
            << "quant_max " << quant_max << ", deviation " << deviation << ", steps " << steps;
      }
    }
  }
}

TEST(Int16Windows, ExtremeWeights) {
  for (const auto& [first, second] : {std::pair{127, 127}, std::pair{-128, -128}, std::pair{127, -128}}) {
    Panel original(5 * step_weights);
    for (size_t i = 0; i < original.size(); ++i) original[i] = static_cast<int8_t>(i % 2 == 0 ? first : second);
    for (const int quant_max : {127, 128, 255}) {
      Panel panel = original;
      EXPECT_EQ(flaw(plan_int16_windows(panel, quant_max), panel, original, quant_max), "") << first << ", " << second;
    }
  }
}

TEST(Int16Windows, FollowsTheWeights) {
  std::mt19937 random(20260302);
  const auto plan = [&](double deviation, int quant_max) {
    Panel panel = normal_panel(576, deviation, random);
    return plan_int16_windows(panel, quant_max);
  };
  EXPECT_EQ(plan(1.0, 15).window, 0) << "long windows";
  EXPECT_EQ(plan(18.0, 255).window, 2) << "about 7 bits";
  const Int16Windows eight_bits = plan(36.0, 255);
  EXPECT_EQ(eight_bits.window, 1);
  EXPECT_FALSE(eight_bits.excess[0].empty());
  EXPECT_LT(eight_bits.cost, 576) << "faster than vpmaddwd";
  EXPECT_GT(plan(1000.0, 255).cost, 576) << "every step has an excess";
}

TEST(NegativeControl, WeightsThatWereNotCutAreFoundUnsafe) {
  std::mt19937 random(20260303);
  const Panel original = normal_panel(144, 60, random);
  Panel panel = original;
  Int16Windows plan = plan_int16_windows(panel, 255);
  EXPECT_EQ(flaw(plan, original, original, 255), "a window may leave int16");
  ASSERT_FALSE(plan.excess[0].empty());
  plan.excess[0].pop_back();
  EXPECT_EQ(flaw(plan, panel, original, 255), "panel and excess do not add up to the weights");
}

}  // namespace
}  // namespace qstep::kernels::test
