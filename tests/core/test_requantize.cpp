#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "oracle/requantize.h"
#include "qstep/core/requantize.h"

namespace qstep::core {
namespace {

using oracle::Wide;

const std::vector<int32_t>& edge_accumulators() {
  static const std::vector<int32_t> edges = [] {
    std::vector<int32_t> result{INT32_MIN, INT32_MIN + 1, INT32_MAX - 1, INT32_MAX};
    for (int bit = 0; bit < 31; ++bit) {
      for (int32_t nudge = -1; nudge <= 1; ++nudge) {
        result.push_back((int32_t{1} << bit) + nudge);
        result.push_back(-(int32_t{1} << bit) + nudge);
      }
    }
    return result;
  }();
  return edges;
}

void expect_agreement(int32_t accumulator, Multiplier m, RequantPolicy policy) {
  ASSERT_TRUE(requantize(accumulator, m, policy) == oracle::requantize(accumulator, m, policy))
      << "accumulator " << accumulator << ", multiplier " << m.multiplier << ", shift " << m.shift << ", policy "
      << static_cast<int>(policy);
}

TEST(Requantize, EdgesOfEveryPolicy) {
  for (const int32_t accumulator : edge_accumulators()) {
    for (int shift = 0; shift <= 62; ++shift) {
      for (const int32_t multiplier : {0, 1 << 23, (1 << 23) + 1, 3 << 22, (1 << 24) - 1}) {
        expect_agreement(accumulator, {multiplier, shift}, RequantPolicy::exact);
        expect_agreement(accumulator, {-multiplier, shift}, RequantPolicy::exact);
      }
    }
    for (int shift = -31; shift <= 62; ++shift) expect_agreement(accumulator, {1, shift}, RequantPolicy::shift);
    for (int shift = -31; shift <= 30; ++shift) {
      for (const int32_t multiplier : {0, 1 << 30, (1 << 30) + 1, 3 << 29, INT32_MAX}) {
        expect_agreement(accumulator, {multiplier, shift}, RequantPolicy::gemmlowp);
        expect_agreement(accumulator, {-multiplier, shift}, RequantPolicy::gemmlowp);
      }
    }
  }
}

TEST(Requantize, EveryTieOfASmallDomain) {
  // 3 * 2^22 / 2^25 = 0.375 and 2^23 / 2^24 = 0.5: ties at every fourth and every second accumulator.
  for (int32_t accumulator = -5000; accumulator <= 5000; ++accumulator) {
    for (const Multiplier m : {Multiplier{3 << 22, 25}, Multiplier{1 << 23, 24}, Multiplier{-(1 << 23), 26}}) {
      expect_agreement(accumulator, m, RequantPolicy::exact);
    }
  }
}

TEST(Requantize, RandomFactors) {
  const unsigned seed = 20260102;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> exponent(-40, 20);
  for (int i = 0; i < 200000; ++i) {
    const double factor = std::exp2(exponent(random)) * (random() % 2 == 0 ? 1 : -1);
    const auto accumulator = static_cast<int32_t>(random() >> (random() % 32));
    expect_agreement(accumulator, exact_multiplier(factor), RequantPolicy::exact);
    expect_agreement(accumulator, gemmlowp_multiplier(factor), RequantPolicy::gemmlowp);
  }
}

TEST(Requantize, DoublesGiveTheSameBelowTheBound) {
  const unsigned seed = 20260103;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  const int32_t bound = 1 << 29;  // times a multiplier of 24 bits: 2^53
  std::uniform_int_distribution<int32_t> accumulators(-bound + 1, bound - 1);
  for (int i = 0; i < 500000; ++i) {
    const Multiplier m{static_cast<int32_t>((1 << 23) + random() % (1 << 23)),
                       static_cast<int32_t>(20 + random() % 40)};
    const int32_t accumulator = i % 2 == 0 ? accumulators(random) : bound - 1 - static_cast<int32_t>(random() % 64);
    ASSERT_EQ(round_half_even(accumulator * std::ldexp(m.multiplier, -m.shift)),
              static_cast<double>(requantize_exact(accumulator, m)))
        << accumulator << " * " << m.multiplier << " >> " << m.shift;
  }
}

TEST(ExactMultiplier, IsTheNearestFloat32) {
  const unsigned seed = 20260104;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> exponent(-38, 23.9);
  for (int i = 0; i < 200000; ++i) {
    const double factor = std::exp2(exponent(random)) * (random() % 2 == 0 ? 1 : -1);
    const Multiplier m = exact_multiplier(factor);
    const int32_t size = std::abs(m.multiplier);
    ASSERT_TRUE(size >= (1 << 23) && size < (1 << 24)) << factor;
    ASSERT_EQ(std::ldexp(m.multiplier, -m.shift), static_cast<double>(static_cast<float>(factor))) << factor;
  }
}

TEST(ExactMultiplier, Boundaries) {
  EXPECT_EQ(exact_multiplier(0.0), (Multiplier{0, 0}));
  EXPECT_EQ(exact_multiplier(-0.0), (Multiplier{0, 0}));
  EXPECT_EQ(exact_multiplier(1.0), (Multiplier{1 << 23, 23}));
  EXPECT_EQ(exact_multiplier(-0.5), (Multiplier{-(1 << 23), 24}));
  EXPECT_EQ(exact_multiplier(std::nextafter(1.0, 0.0)), (Multiplier{1 << 23, 23}))
      << "rounds up to the next power of two";
  EXPECT_EQ(exact_multiplier(0x1.fffffep23), (Multiplier{(1 << 24) - 1, 0}));
  EXPECT_EQ(exact_multiplier(0x1p-39), (Multiplier{1 << 23, 62}));
  EXPECT_EQ(exact_multiplier(0x1p-40), (Multiplier{0, 0})) << "moves no accumulator off zero";
  EXPECT_EQ(exact_multiplier(std::numeric_limits<double>::denorm_min()), (Multiplier{0, 0}));
  for (const double bad : {0x1p24, -0x1p24, 0x1.ffffffp23, std::numeric_limits<double>::infinity(), std::nan("")}) {
    EXPECT_THROW(exact_multiplier(bad), Error) << bad;
  }
}

TEST(ExactMultiplier, AFactorThatBecomesZeroMovesNothing) {
  for (const int32_t accumulator : {INT32_MIN, INT32_MAX}) {
    EXPECT_EQ(oracle::nearest_even(Wide{accumulator} * ((1 << 24) - 1), oracle::power_of_two(63)), 0);
  }
}

TEST(GemmlowpMultiplier, AsPublished) {
  // A real multiplier in [0.5, 1) times a power of two, the first as a 31-bit fixed-point number rounded half away
  // from zero.
  EXPECT_EQ(gemmlowp_multiplier(0.75), (Multiplier{3 << 29, 0}));
  EXPECT_EQ(gemmlowp_multiplier(1.0), (Multiplier{1 << 30, 1}));
  EXPECT_EQ(gemmlowp_multiplier(-0.375), (Multiplier{-(3 << 29), -1}));
  EXPECT_EQ(gemmlowp_multiplier(std::nextafter(1.0, 0.0)), (Multiplier{1 << 30, 1}));
  EXPECT_EQ(gemmlowp_multiplier(0.0), (Multiplier{0, 0}));
  EXPECT_EQ(gemmlowp_multiplier(0x1p-32), (Multiplier{1 << 30, -31}));
  EXPECT_EQ(gemmlowp_multiplier(0x1p-33), (Multiplier{0, 0}));
  EXPECT_EQ(gemmlowp_multiplier(0.5 + 0x1p-32), (Multiplier{(1 << 30) + 1, 0})) << "half a unit, away from zero";
  EXPECT_EQ(gemmlowp_multiplier(-0.5 - 0x1p-32), (Multiplier{-(1 << 30) - 1, 0}));
  for (const double bad : {0x1p30, std::numeric_limits<double>::infinity(), std::nan("")}) {
    EXPECT_THROW(gemmlowp_multiplier(bad), Error) << bad;
  }
}

TEST(GemmlowpMultiplier, LeftShiftSaturatesInsteadOfWrapping) {
  EXPECT_EQ(requantize_gemmlowp(INT32_MAX, {1 << 30, 30}), 1 << 30);
  EXPECT_EQ(requantize_gemmlowp(INT32_MIN, {1 << 30, 30}), -(1 << 30));
}

}  // namespace
}  // namespace qstep::core
