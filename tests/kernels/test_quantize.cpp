#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "qstep/core/error.h"
#include "qstep/kernels/elementwise/interleave.h"
#include "qstep/kernels/elementwise/quantize.h"

namespace qstep::kernels::test {
namespace {

using core::Grid;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

/// float32 division and subtraction through long double, rounding by comparison with the neighbouring half (see
/// tests/core/test_grid.cpp for why this is exact).
int32_t quantize_oracle(float x, const Grid& grid) {
  const auto difference = static_cast<float>(static_cast<long double>(x) - static_cast<long double>(grid.offset));
  const auto quotient = static_cast<float>(static_cast<long double>(difference) / static_cast<long double>(grid.scale));
  if (!(quotient > -1000.0F)) return grid.quant_min;
  if (quotient > 1000.0F) return grid.quant_max;
  int32_t code = -1001;
  while (static_cast<long double>(code) + 0.5L < static_cast<long double>(quotient)) ++code;
  if (static_cast<long double>(code) + 0.5L == static_cast<long double>(quotient) && code % 2 != 0) ++code;
  return std::clamp(code + grid.zero_point, grid.quant_min, grid.quant_max);
}

std::vector<Grid> sample_grids() {
  return {{1.0F, 0, 0.0F, 0, 255},   {0.1F, 128, 0.0F, 0, 255}, {0.037F, 255, 0.0F, 0, 255}, {3.7e-3F, 3, 0.0F, 0, 15},
          {0.25F, 0, -0.61F, 0, 15}, {0.011F, 8, -0.4F, 2, 13}, {1e30F, 7, 1e29F, 0, 255},   {1e-38F, 0, 0.0F, 0, 3}};
}

std::vector<float> sample_values(const Grid& grid, std::mt19937& random) {
  std::vector<float> values{0.0F, -0.0F, infinity, -infinity, 3e38F, -3e38F, 1e-45F};
  for (int32_t code = -3; code <= 258; ++code) {
    for (const float half : {0.0F, 0.5F}) {
      const float x = grid.scale * (static_cast<float>(code - grid.zero_point) + half) + grid.offset;
      values.insert(values.end(), {x, std::nextafter(x, infinity), std::nextafter(x, -infinity)});
    }
  }
  for (int i = 0; i < 2000; ++i) {
    const auto bits = static_cast<uint32_t>(random());
    float x;
    std::memcpy(&x, &bits, sizeof x);
    values.push_back(std::isnan(x) ? 1.0F : x);
  }
  return values;
}

TEST(Quantize, TiesExtremesAndRandomValues) {
  const unsigned seed = 20260251;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (const Grid& grid : sample_grids()) {
    const std::vector<float> values = sample_values(grid, random);
    const auto count = static_cast<int64_t>(values.size());
    for (const QuantizeKernel& kernel : quantize_kernels()) {
      if (!is_supported(kernel.isa)) continue;
      for (const int64_t stride : {1, 3}) {
        std::vector<uint8_t> codes(static_cast<size_t>(count * stride), 91);
        EXPECT_TRUE(kernel.run(values.data(), count, grid, codes.data(), stride));
        for (size_t i = 0; i < codes.size(); ++i) {
          const bool used = static_cast<int64_t>(i) % stride == 0;
          ASSERT_EQ(codes[i], used ? quantize_oracle(values[i / static_cast<size_t>(stride)], grid) : 91)
              << kernel.name << ": " << values[i / static_cast<size_t>(stride)] << " at scale " << grid.scale;
        }
      }
    }
  }
}

TEST(Quantize, ReportsNaNWhereverItIs) {
  const Grid grid{0.5F, 3, 0.0F, 1, 20};
  for (const QuantizeKernel& kernel : quantize_kernels()) {
    if (!is_supported(kernel.isa)) continue;
    for (int64_t count = 0; count <= 40; ++count) {
      std::vector<float> values(static_cast<size_t>(count), 1.0F);
      std::vector<uint8_t> codes(values.size());
      EXPECT_TRUE(kernel.run(values.data(), count, grid, codes.data(), 1));
      for (size_t at = 0; at < values.size(); ++at) {
        values[at] = not_a_number;
        EXPECT_FALSE(kernel.run(values.data(), count, grid, codes.data(), 1))
            << kernel.name << ", " << at << " of " << count;
        EXPECT_EQ(codes[at], 1);
        values[at] = infinity;
        EXPECT_TRUE(kernel.run(values.data(), count, grid, codes.data(), 1));
        values[at] = 1.0F;
      }
    }
  }
}

TEST(Interleave, EveryCount) {
  std::mt19937_64 random(7);
  for (const InterleaveKernel& kernel : interleave_kernels()) {
    if (!is_supported(kernel.isa)) continue;
    for (int64_t count = 0; count < 70; ++count) {
      const int64_t stride = count + static_cast<int64_t>(random() % 3);
      std::vector<uint8_t> planes(static_cast<size_t>(3 * stride));
      for (uint8_t& code : planes) code = static_cast<uint8_t>(random());
      std::vector<uint8_t> pixels(static_cast<size_t>(3 * count + 1), 77);
      kernel.run(planes.data(), stride, count, pixels.data());
      for (int64_t i = 0; i < 3 * count; ++i) {
        ASSERT_EQ(pixels[static_cast<size_t>(i)], planes[static_cast<size_t>(i % 3 * stride + i / 3)]) << kernel.name;
      }
      ASSERT_EQ(pixels.back(), 77) << kernel.name;
    }
  }
}

TEST(Dequantize, EveryCode) {
  for (const Grid& grid : sample_grids()) {
    for (const DequantizeKernel& kernel : dequantize_kernels()) {
      if (!is_supported(kernel.isa)) continue;
      for (const int64_t stride : {1, 2}) {
        for (const int64_t count : {int64_t{0}, int64_t{7}, int64_t{256}}) {
          std::vector<uint8_t> codes(512, 0);
          for (int64_t i = 0; i < count; ++i) codes[static_cast<size_t>(i * stride)] = static_cast<uint8_t>(i);
          std::vector<float> values(static_cast<size_t>(count));
          kernel.run(codes.data(), stride, count, grid, values.data());
          for (int64_t i = 0; i < count; ++i) {
            const auto product = static_cast<float>(static_cast<long double>(grid.scale) *
                                                    static_cast<long double>(i - grid.zero_point));
            const auto sum =
                static_cast<float>(static_cast<long double>(product) + static_cast<long double>(grid.offset));
            ASSERT_EQ(values[static_cast<size_t>(i)], sum) << kernel.name;
          }
        }
      }
    }
  }
}

TEST(DequantizeAccumulators, OneProductInDouble) {
  std::mt19937 random(20260252);
  std::vector<int32_t> accumulators{0, 1, -1, INT32_MAX, INT32_MIN, 1 << 24, (1 << 24) + 1};
  while (accumulators.size() < 203) accumulators.push_back(static_cast<int32_t>(random()));
  for (const double scale : {1.0, 0.1, 3.3e-9, -7.77e5, 1e-300}) {
    for (const DequantizeAccumulatorsKernel& kernel : dequantize_accumulators_kernels()) {
      if (!is_supported(kernel.isa)) continue;
      for (const int64_t stride : {1, 2}) {
        const int64_t count = static_cast<int64_t>(accumulators.size()) / stride;
        std::vector<float> values(static_cast<size_t>(count));
        kernel.run(accumulators.data(), stride, count, scale, values.data());
        for (int64_t i = 0; i < count; ++i) {
          const double product = scale * static_cast<double>(accumulators[static_cast<size_t>(i * stride)]);
          ASSERT_EQ(values[static_cast<size_t>(i)], static_cast<float>(product)) << kernel.name;
        }
      }
    }
  }
}

TEST(CodeGrid, RejectsWhatKernelsDoNotTake) {
  EXPECT_NO_THROW(validate_code_grid({0.5F, 3, 0.1F, 0, 255}));
  for (const Grid& grid :
       {Grid{0.0F, 0, 0.0F, 0, 255}, Grid{-1.0F, 0, 0.0F, 0, 255}, Grid{infinity, 0, 0.0F, 0, 255},
        Grid{not_a_number, 0, 0.0F, 0, 255}, Grid{1.0F, 0, not_a_number, 0, 255}, Grid{1.0F, 0, 0.0F, -1, 255},
        Grid{1.0F, 0, 0.0F, 0, 256}, Grid{1.0F, 0, 0.0F, 5, 4}, Grid{1.0F, 256, 0.0F, 0, 255}}) {
    EXPECT_THROW(validate_code_grid(grid), Error);
  }
}

}  // namespace
}  // namespace qstep::kernels::test
