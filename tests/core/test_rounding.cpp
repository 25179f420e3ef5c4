#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

#include "oracle/rounding.h"
#include "qstep/core/rounding.h"

namespace qstep::core {
namespace {

using oracle::Wide;

constexpr int64_t int64_max = std::numeric_limits<int64_t>::max();
constexpr int64_t int64_min = std::numeric_limits<int64_t>::min();

TEST(RoundHalfEven, TiesGoToEvenAndSpecialValuesPass) {
  for (int i = -1000; i <= 1000; ++i) {
    const int even = i % 2 == 0 ? i : i + 1;
    EXPECT_EQ(round_half_even(static_cast<float>(i) + 0.5F), static_cast<float>(even));
    EXPECT_EQ(round_half_even(i + 0.5), even);
    EXPECT_EQ(round_half_even(std::nextafter(i + 0.5, i + 1.0)), i + 1);
    EXPECT_EQ(round_half_even(std::nextafter(i + 0.5, i - 1.0)), i);
  }
  EXPECT_TRUE(std::signbit(round_half_even(-0.0)));
  EXPECT_TRUE(std::signbit(round_half_even(-0.5F)));
  EXPECT_TRUE(std::isnan(round_half_even(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_EQ(round_half_even(-std::numeric_limits<float>::infinity()), -std::numeric_limits<float>::infinity());
}

TEST(ShiftRightHalfEven, SmallDomainExhaustively) {
  for (int shift = 0; shift <= 12; ++shift) {
    for (int64_t value = -(1 << 13); value <= (1 << 13); ++value) {
      ASSERT_EQ(shift_right_half_even(value, shift), oracle::nearest_even(value, oracle::power_of_two(shift)))
          << value << " >> " << shift;
    }
  }
}

TEST(ShiftRightHalfEven, AroundEveryTieOfEveryShift) {
  for (int shift = 1; shift <= 62; ++shift) {
    for (const int64_t whole : {int64_t{0}, int64_t{1}, int64_t{2}, int64_t{7}, int64_max >> shift, int64_min >> shift,
                                int64_t{-1}, int64_t{-2}}) {
      for (int nudge = -1; nudge <= 1; ++nudge) {
        const Wide value = Wide{whole} * oracle::power_of_two(shift) + oracle::power_of_two(shift - 1) + nudge;
        if (value > int64_max || value < int64_min) continue;
        ASSERT_EQ(shift_right_half_even(static_cast<int64_t>(value), shift),
                  oracle::nearest_even(value, oracle::power_of_two(shift)))
            << static_cast<int64_t>(value) << " >> " << shift;
      }
    }
    for (const int64_t value : {int64_max, int64_min, int64_min + 1}) {
      ASSERT_EQ(shift_right_half_even(value, shift), oracle::nearest_even(value, oracle::power_of_two(shift)))
          << value << " >> " << shift;
    }
  }
}

TEST(DivideHalfEven, SmallDomainExhaustively) {
  for (int64_t denominator = 1; denominator <= 130; ++denominator) {
    for (int64_t numerator = -1500; numerator <= 1500; ++numerator) {
      ASSERT_EQ(divide_half_even(numerator, denominator), oracle::nearest_even(numerator, denominator))
          << numerator << " / " << denominator;
    }
  }
}

TEST(DivideHalfEven, Extremes) {
  const int64_t largest = int64_t{1} << 62;
  for (const int64_t denominator : {int64_t{1}, int64_t{2}, int64_t{3}, largest / 3, largest - 1, largest}) {
    for (const int64_t numerator :
         {int64_max, int64_min + 1, largest, -largest, largest / 2, -largest / 2, largest / 2 + 1, int64_t{0}}) {
      ASSERT_EQ(divide_half_even(numerator, denominator), oracle::nearest_even(numerator, denominator))
          << numerator << " / " << denominator;
    }
  }
}

TEST(Gemmlowp, HighMultiplicationIsHalfUpAndSaturates) {
  std::mt19937 random(20260101);
  const auto check = [](int32_t a, int32_t b) {
    const Wide rounded = oracle::nearest_up(Wide{a} * b, oracle::power_of_two(31));
    ASSERT_EQ(saturating_rounding_doubling_high_mul(a, b), rounded > INT32_MAX ? INT32_MAX : rounded)
        << a << " * " << b;
  };
  const int32_t edges[] = {INT32_MIN, INT32_MIN + 1, -(1 << 30),    -3,       -2, -1, 0, 1, 2, 3,
                           1 << 15,   1 << 30,       INT32_MAX - 1, INT32_MAX};
  for (const int32_t a : edges) {
    for (const int32_t b : edges) check(a, b);
  }
  for (int i = -4096; i <= 4096; ++i) check(i, 1 << 30);  // every second one is a tie
  for (int i = 0; i < 200000; ++i) check(static_cast<int32_t>(random()), static_cast<int32_t>(random()));
}

TEST(Gemmlowp, DivisionByPowerOfTwoIsHalfAwayFromZero) {
  for (int exponent = 0; exponent <= 31; ++exponent) {
    const auto check = [exponent](int64_t x) {
      if (x < INT32_MIN || x > INT32_MAX) return;
      ASSERT_EQ(rounding_divide_by_power_of_two(static_cast<int32_t>(x), exponent),
                oracle::nearest_away_from_zero(x, oracle::power_of_two(exponent)))
          << x << " / 2^" << exponent;
    };
    for (int64_t x = -5000; x <= 5000; ++x) check(x);
    for (const int64_t base : {int64_t{INT32_MIN}, int64_t{INT32_MAX}, int64_t{1} << 30, -(int64_t{1} << 30),
                               int64_t{3} << (exponent / 2)}) {
      for (int64_t nudge = -2; nudge <= 2; ++nudge) check(base + nudge);
    }
  }
}

}  // namespace
}  // namespace qstep::core
