#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "qstep/core/grid.h"

namespace qstep::core {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

/// The definition step by step in long double, each result rounded to float32. 64 bits are more than 2 * 24 + 2, so
/// rounding twice gives the float32 operation exactly (Figueroa, 1995).
int32_t quantize_oracle(float x, const Grid& grid) {
  const auto difference = static_cast<float>(static_cast<long double>(x) - static_cast<long double>(grid.offset));
  const auto quotient = static_cast<float>(static_cast<long double>(difference) / static_cast<long double>(grid.scale));
  if (std::isnan(quotient)) return grid.quant_min;
  if (std::fabs(quotient) > 1e6F) return quotient > 0 ? grid.quant_max : grid.quant_min;
  const auto below = static_cast<int32_t>(std::floor(quotient));
  const long double fraction = static_cast<long double>(quotient) - below;
  int32_t code = fraction < 0.5L ? below : below + 1;
  if (fraction == 0.5L && code % 2 != 0) --code;
  code += grid.zero_point;
  return code < grid.quant_min ? grid.quant_min : (code > grid.quant_max ? grid.quant_max : code);
}

std::vector<Grid> sample_grids() {
  return {{1.0F, 0, 0.0F, 0, 255},   {0.1F, 128, 0.0F, 0, 255}, {0.037F, 0, 0.0F, -128, 127}, {3.7e-3F, 3, 0.0F, 0, 15},
          {0.25F, 0, -0.61F, 0, 15}, {0.7F, 0, 0.3F, -2, 1},    {0.011F, 8, -0.4F, 0, 15},    {1e-30F, 0, 0.0F, 0, 255},
          {1e30F, 7, 1e29F, 0, 255}, {0.5F, 255, 0.0F, 0, 255}, {1e-6F, 0, 5.0F, 0, 3}};
}

TEST(Quantize, TiesAndNeighboursOfEveryCode) {
  for (const Grid& grid : sample_grids()) {
    for (int32_t code = grid.quant_min - 2; code <= grid.quant_max + 2; ++code) {
      for (const float half : {-0.5F, 0.0F, 0.5F}) {
        const float centre = grid.scale * (static_cast<float>(code - grid.zero_point) + half) + grid.offset;
        for (const float x : {centre, std::nextafter(centre, infinity), std::nextafter(centre, -infinity)}) {
          ASSERT_EQ(quantize(x, grid), quantize_oracle(x, grid)) << x << " at scale " << grid.scale;
        }
      }
    }
  }
}

TEST(Quantize, RandomBitPatterns) {
  const unsigned seed = 20260105;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (const Grid& grid : sample_grids()) {
    for (int i = 0; i < 50000; ++i) {
      const auto bits = static_cast<uint32_t>(random());
      float x;
      std::memcpy(&x, &bits, sizeof x);
      ASSERT_EQ(quantize(x, grid), quantize_oracle(x, grid)) << x << " at scale " << grid.scale;
    }
  }
}

TEST(Quantize, SpecialValues) {
  const Grid grid{0.5F, 10, 0.0F, 0, 20};
  EXPECT_EQ(quantize(infinity, grid), 20);
  EXPECT_EQ(quantize(-infinity, grid), 0);
  EXPECT_EQ(quantize(not_a_number, grid), 0);
  EXPECT_EQ(quantize(0.0F, grid), 10);
  EXPECT_EQ(quantize(-0.0F, grid), 10);
  EXPECT_EQ(quantize(std::numeric_limits<float>::max(), grid), 20);
  EXPECT_EQ(quantize(std::numeric_limits<float>::denorm_min(), grid), 10);
}

TEST(Dequantize, QuantizeGivesTheCodeBack) {
  for (const Grid& grid : sample_grids()) {
    if (grid.scale < 1e-5F) continue;  // beside its offset such a step is below float32
    for (int32_t code = grid.quant_min; code <= grid.quant_max; ++code) {
      ASSERT_EQ(quantize(dequantize(code, grid), grid), code);
    }
  }
}

TEST(ZeroCode, IsTheCodeNearestToZero) {
  for (const Grid& grid : sample_grids()) {
    const auto distance = [&](int32_t code) {
      return std::fabs(static_cast<long double>(grid.scale) * (code - grid.zero_point) +
                       static_cast<long double>(grid.offset));
    };
    const int32_t zero = zero_code(grid);
    ASSERT_TRUE(grid.quant_min <= zero && zero <= grid.quant_max);
    for (int32_t code = grid.quant_min; code <= grid.quant_max; ++code) {
      ASSERT_LE(distance(zero), distance(code))
          << "scale " << grid.scale << ", offset " << grid.offset << ", code " << code;
    }
  }
}

TEST(ZeroCode, EqualsZeroPointWithoutOffsetAndSaturates) {
  EXPECT_EQ(zero_code({0.1F, 77, 0.0F, 0, 255}), 77);
  EXPECT_EQ(zero_code({0.1F, 0, 0.0F, -8, 7}), 0);
  EXPECT_EQ(zero_code({0.1F, 0, 100.0F, 0, 15}), 0);
  EXPECT_EQ(zero_code({0.1F, 0, -100.0F, 0, 15}), 15);
  EXPECT_EQ(zero_code({std::numeric_limits<float>::denorm_min(), 0, -3e38F, 0, 15}), 15);
}

TEST(Residual, CompletesTheCentredForm) {
  EXPECT_EQ(residual({0.1F, 77, 0.0F, 0, 255}), 0.0);
  for (const Grid& grid : sample_grids()) {
    for (int32_t code = grid.quant_min; code <= grid.quant_max; ++code) {
      const long double real =
          static_cast<long double>(grid.scale) * (code - grid.zero_point) + static_cast<long double>(grid.offset);
      const long double centred =
          static_cast<long double>(grid.scale) * (code - zero_code(grid)) + static_cast<long double>(residual(grid));
      ASSERT_NEAR(static_cast<double>(real), static_cast<double>(centred),
                  1e-13 * (std::fabs(static_cast<double>(real)) + grid.scale * 512.0));
    }
  }
}

TEST(ToUnsigned, RenamesCodesAndMovesNoValue) {
  for (const Grid& grid : sample_grids()) {
    const Grid renamed = to_unsigned(grid);
    EXPECT_EQ(renamed.quant_min, 0);
    for (int32_t code = grid.quant_min; code <= grid.quant_max; ++code) {
      ASSERT_EQ(dequantize(code - grid.quant_min, renamed), dequantize(code, grid));
    }
    for (float x = -3.0F; x < 3.0F; x += 0.01F) {
      ASSERT_EQ(quantize(x, renamed), quantize(x, grid) - grid.quant_min) << x;
    }
  }
}

}  // namespace
}  // namespace qstep::core
