#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "kernels/layer_case.h"
#include "oracle/requantize.h"
#include "qstep/core/error.h"

namespace qstep::kernels::test {
namespace {

/// Every kernel of the table that this CPU runs and that takes the problem; returns their names.
std::set<std::string_view> expect_exact(const LayerCase& layer, int parts, std::mt19937& random) {
  std::set<std::string_view> used;
  for (const GemmKernel& kernel : gemm_kernels()) {
    if (!is_supported(kernel.isa) || !kernel.supports(layer.gemm())) continue;
    used.insert(kernel.name);
    EXPECT_EQ(difference(kernel, layer, parts, random), "");
  }
  return used;
}

TEST(Gemm, EveryBitWidthAndPattern) {
  const unsigned seed = 20260201;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  std::set<std::string_view> used;
  for (int a = 2; a <= 8; ++a) {
    for (int w = 2; w <= 8; ++w) {
      for (const Pattern pattern : all_patterns) {
        used.merge(expect_exact(LayerCase(product(7, 18, 131), {a, w}, pattern, random), 1, random));
        used.merge(expect_exact(LayerCase(product(2, 3, 4608), {a, w}, pattern, random), 1, random));
        used.merge(expect_exact(LayerCase(product(5, 70, 530), {a, w}, pattern, random), 1, random));
        used.merge(expect_exact(LayerCase(product(5, 70, 544), {a, w}, pattern, random), 1, random));
        ASSERT_FALSE(HasFailure()) << "A" << a << "W" << w;
      }
    }
  }
  used.merge(expect_exact(LayerCase(product(2, 230, 4608), {4, 4}, Pattern::random, random), 1, random));
  for (const int w : {2, 7, 8}) {
    used.merge(expect_exact(LayerCase(product(2, 230, 4608), {8, w}, Pattern::random, random), 1, random));
  }
  used.merge(expect_exact(LayerCase(product(2, 230, 4608), {2, 2}, Pattern::random, random), 1, random));
  for (const GemmKernel& kernel : gemm_kernels()) {
    EXPECT_TRUE(used.contains(kernel.name) || !is_supported(kernel.isa)) << kernel.name << " was never used";
  }
}

/// The rows that pack weights for few rows take large matrices only; packed all the same, they must be exact for any.
TEST(Gemm, PackedForFewRows) {
  const unsigned seed = 20260217;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto expect_packed_exact = [&](const LayerCase& layer, int bits) {
    for (const GemmKernel& kernel : gemm_kernels()) {
      const bool packs = kernel.name.ends_with(bits == 8 ? "_or_bytes" : fmt::format("_or_{}_bits", bits));
      const int32_t most = kernel.name.starts_with("gemm_avx2_shuffle8")              ? 3
                           : kernel.name.starts_with("gemm_avx512vnni_half_products") ? 127
                                                                                      : 255;
      if (packs && is_supported(kernel.isa) && layer.quant_max <= most) {
        EXPECT_EQ(difference(kernel, layer, 1 + static_cast<int>(random() % 3), random), "");
      }
    }
  };
  for (const int bits : {2, 4, 8}) {
    for (int64_t depth = 1; depth <= 70; ++depth) {
      const auto rows = static_cast<int64_t>(1 + random() % 6);
      LayerCase layer(product(rows, 1 + depth % 35, depth), {8, bits}, Pattern::random, random);
      layer.sliced = depth % 2 == 0;
      expect_packed_exact(layer, bits);
      ASSERT_FALSE(HasFailure());
    }
    for (const Pattern pattern : all_patterns) {
      for (int activation = 1; activation <= 8; ++activation) {
        for (int weight = 2; weight <= bits; ++weight) {
          expect_packed_exact(LayerCase(product(3, 18, 1160), {activation, weight}, pattern, random), bits);
          ASSERT_FALSE(HasFailure()) << "A" << activation << "W" << weight;
        }
      }
      for (const int activation : {1, 2, 4, 8}) {
        expect_packed_exact(LayerCase(product(3, 18, 4616), {activation, bits}, pattern, random), bits);
        ASSERT_FALSE(HasFailure()) << "A" << activation << "W" << bits;
      }
    }
    if (bits == 8) continue;
    LayerCase far_from_zero(product(4, 20, 77), {8, bits}, Pattern::random, random);
    for (int16_t& w : far_from_zero.weights) w = static_cast<int16_t>(w - 100);
    far_from_zero.judge();
    expect_packed_exact(far_from_zero, bits);
  }
}

/// Panels of several sums are filled with columns of zeros, which are not among these weights.
TEST(Gemm, SumsOfWeightsWithoutZero) {
  constexpr int64_t depth = 31000;
  constexpr int64_t columns = 17;
  std::mt19937 random(20260221);
  std::vector<int16_t> weights(2 * columns * depth);
  for (int16_t& w : weights) w = static_cast<int16_t>(1 + random() % 16);
  const std::vector<int32_t> multipliers(2 * columns, 1 << 10);
  const std::vector<int64_t> constants(columns, 0);
  const std::vector<int8_t> shifts(columns, 30);
  const GemmProblem problem{.depth = depth,
                            .columns = columns,
                            .weights = weights,
                            .requantization = {.combination = {multipliers, constants, shifts}}};
  for (const GemmKernel& kernel : gemm_kernels()) {
    if (is_supported(kernel.isa) && kernel.supports(problem)) {
      EXPECT_NO_THROW(kernel.pack(problem)) << kernel.name;
    }
  }
}

bool multiplies_by_table(const GemmKernel& kernel) {
  return kernel.name.ends_with("shuffle8") && is_supported(kernel.isa);
}

void expect_products_by_table_exact(const LayerCase& layer, std::mt19937& random) {
  for (const GemmKernel& kernel : gemm_kernels()) {
    if (!multiplies_by_table(kernel)) continue;
    EXPECT_EQ(difference(kernel, layer, 1 + static_cast<int>(random() % 3), random), "");
  }
}

void expect_no_products_by_table(const LayerCase& layer) {
  for (const GemmKernel& kernel : gemm_kernels()) {
    if (!multiplies_by_table(kernel)) continue;
    EXPECT_THROW(kernel.pack(layer.gemm()), Error) << kernel.name;
  }
}

/// Of any size: rows of the table take only matrices that gain from it.
TEST(Gemm, ProductsByTable) {
  const unsigned seed = 20260223;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int64_t columns = 1; columns <= 300; columns += columns < 140 ? 1 : 7) {  // blocks have 64 or 256
    const auto rows = static_cast<int64_t>(1 + random() % 13);
    const auto depth = static_cast<int64_t>(1 + random() % 70);
    LayerCase layer(product(rows, columns, depth), {1 + static_cast<int>(random() % 4), 2}, Pattern::random, random);
    layer.sliced = columns % 2 == 0;
    expect_products_by_table_exact(layer, random);
    ASSERT_FALSE(HasFailure());
  }
  for (const int activation : {1, 2, 3, 4}) {
    for (const Pattern pattern : all_patterns) {
      expect_products_by_table_exact(LayerCase(product(7, 35, 2100), {activation, 2}, pattern, random), random);
      ASSERT_FALSE(HasFailure());
    }
    for (const int lowest : {-3, -1, 0}) {
      if (lowest != -1 && activation == 4) continue;  // 8 * 15 * 3 is too much for a step
      LayerCase layer(product(4, 50, 77), {activation, 2}, Pattern::random, random);
      for (int16_t& w : layer.weights) w = static_cast<int16_t>(w + 2 + lowest);
      layer.judge();
      expect_products_by_table_exact(layer, random);
      ASSERT_FALSE(HasFailure());
    }
  }
}

TEST(Gemm, ProductsByTableAtTheEdges) {
  std::mt19937 random(20260224);
  const auto case_of = [&](int64_t depth, int weight, int64_t weights) {  // of each column, zeros behind them
    LayerCase layer(product(2, 40, depth), {4, 2}, Pattern::all_positive, random);
    for (size_t i = 0; i < layer.weights.size(); ++i) {
      layer.weights[i] = static_cast<int16_t>(static_cast<int64_t>(i) % depth < weights ? weight : 0);
    }
    layer.judge();
    return layer;
  };
  for (const int weight : {1, -1}) {
    for (const int64_t weights : {17, 18}) {  // 17 * 15 is the largest sum of a window
      expect_products_by_table_exact(case_of(40, weight, weights), random);
    }
    constexpr int64_t deepest = 65535 / 15;
    expect_products_by_table_exact(case_of(deepest + 9, weight, deepest), random);
    expect_no_products_by_table(case_of(deepest + 9, weight, deepest + 1));
  }
  expect_products_by_table_exact(case_of(24, -2, 24), random);  // 8 * 2 * 15 = 240 in a step
  expect_products_by_table_exact(case_of(24, -3, 5), random);   // 5 * 3 * 15 = 225
  expect_no_products_by_table(case_of(24, -3, 6));
  expect_no_products_by_table(case_of(24, 4, 1));
}

/// Of any size, codes and weights whose ranges fill a byte together: rows of the table take only matrices that gain.
TEST(Gemm, HalfProducts) {
  const unsigned seed = 20261123;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  if (!is_supported(Isa::avx512vnni)) GTEST_SKIP() << "this CPU has no AVX-512 VNNI";
  const GemmKernel& kernel = *std::ranges::find(gemm_kernels(), "gemm_avx512vnni_half_products", &GemmKernel::name);
  const auto expect_all = [&](LayerCase& layer) {
    layer.sliced = random() % 2 == 0;
    EXPECT_EQ(difference(kernel, layer, 1 + static_cast<int>(random() % 3), random), "");
  };
  for (int64_t rows = 1; rows <= 13; ++rows) {
    for (int64_t columns = 1; columns <= 131; columns += 1 + static_cast<int64_t>(random() % 9)) {
      LayerCase layer(product(rows, columns, static_cast<int64_t>(1 + random() % 200)), {4, 4}, Pattern::random,
                      random);
      expect_all(layer);
      ASSERT_FALSE(HasFailure());
    }
  }
  for (int activation = 1; activation <= 7; ++activation) {
    for (int weight = 2; weight <= 7; ++weight) {
      for (const Pattern pattern : all_patterns) {
        LayerCase layer(product(5, 70, 1100), {activation, weight}, pattern, random);
        expect_all(layer);
        ASSERT_FALSE(HasFailure()) << "A" << activation << "W" << weight;
      }
    }
  }
  for (const int lowest : {-128, -100, -7, 0, 100}) {
    const int highest = lowest + 27;
    LayerCase layer(product(6, 80, 320), {8, 8}, Pattern::random, random);
    layer.quant_max = 255 - (std::max(highest, 0) - std::min(lowest, 0));  // weights that pad panels are zero
    layer.zero_code = 5;
    for (uint8_t& x : layer.input) x = static_cast<uint8_t>(x % (layer.quant_max + 1));
    for (int16_t& w : layer.weights) w = static_cast<int16_t>(lowest + static_cast<int>(random() % 28));
    layer.judge();
    expect_all(layer);
    layer.quant_max = 255;
    EXPECT_THROW(kernel.pack(layer.gemm()), Error);
  }
}

TEST(Gemm, LargeMatricesOfFewBitsArePacked) {
  if (!is_supported(Isa::avx2)) GTEST_SKIP() << "this CPU has no AVX2";
  std::mt19937 random(20260218);
  const auto chosen = [&](int64_t columns, int bits) {
    return choose_gemm(LayerCase(product(0, columns, 4096), {8, bits}, Pattern::random, random).gemm(), Isa::avx2).name;
  };
  EXPECT_EQ(chosen(256, 2), "gemm_avx2_maddubs16_or_2_bits");
  EXPECT_EQ(chosen(256, 4), "gemm_avx2_maddubs16_or_4_bits");
  EXPECT_EQ(chosen(256, 5), "gemm_avx2_maddubs16");
  EXPECT_EQ(chosen(255, 4), "gemm_avx2_maddubs16") << "fits the cache";
}

TEST(Gemm, EveryTileTail) {
  const unsigned seed = 20260202;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  // Tiles have 6 rows and 16 columns or 14 and 32, or fewer rows and 64; steps of depth 2 or 4, staged rows multiples of 32.
  for (int64_t rows = 1; rows <= 29; ++rows) {
    for (int64_t columns = 1; columns <= 66;
         columns += rows % 7 == 0 || columns % 16 < 2 || columns % 16 == 15 ? 1 : 6) {
      const int64_t depths[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65};
      const int64_t depth = depths[random() % std::size(depths)];
      LayerCase layer(product(rows, columns, depth), {4, 4}, Pattern::random, random);
      layer.sliced = random() % 2 == 0;
      expect_exact(layer, 1 + static_cast<int>(random() % 3), random);
      ASSERT_FALSE(HasFailure());
    }
  }
  for (const int64_t rows : {1, 2, 3, 6, 7}) {
    for (int64_t columns = 67; columns <= 129; ++columns) {
      const auto depth = static_cast<int64_t>(1 + random() % 40);
      expect_exact(
          LayerCase(product(rows, columns, depth), {4, static_cast<int>(2 + columns % 3)}, Pattern::random, random), 1,
          random);
      ASSERT_FALSE(HasFailure());
    }
  }
  for (int64_t depth = 1; depth <= 65; ++depth) {
    for (const bool sliced : {false, true}) {
      LayerCase layer(product(7, 17, depth), {8, 4}, Pattern::random, random);
      layer.sliced = sliced;
      expect_exact(layer, 1, random);
      ASSERT_FALSE(HasFailure());
    }
  }
}

TEST(Gemm, ManyRowsOrColumnsInAnySplit) {
  const unsigned seed = 20260203;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (const auto& [rows, columns, depth] :
       {std::array{600, 20, 37}, std::array{3, 500, 64}, std::array{100, 100, 600}, std::array{70, 200, 1100}}) {
    for (const int parts : {1, 2, 7}) {
      const LayerCase layer(product(rows, columns, depth), {8, parts == 2 ? 8 : 5}, Pattern::random, random);
      expect_exact(layer, parts, random);
      ASSERT_FALSE(HasFailure());
    }
  }
}

TEST(Gemm, AsymmetricWeightsReachTwiceTheRange) {
  const unsigned seed = 20260204;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  LayerCase layer(product(5, 19, 300), {8, 8}, Pattern::random, random);
  for (size_t i = 0; i < layer.weights.size(); ++i) {
    layer.weights[i] = static_cast<int16_t>(static_cast<int>(random() % 511) - 255);
  }
  for (size_t i = 0; i < 300; ++i) layer.weights[i] = i % 3 == 0 ? -255 : 255;
  layer.judge();
  const auto used = expect_exact(layer, 1, random);
  EXPECT_FALSE(used.contains("gemm_avx2_maddubs16")) << "weights beyond int8";
}

TEST(Gemm, CodeBooksReachAllOfInt16) {
  const unsigned seed = 20260209;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  LayerCase layer(product(5, 19, 200), {8, 8}, Pattern::random, random);
  for (int16_t& w : layer.weights) w = static_cast<int16_t>(random());
  for (size_t i = 0; i < 200; ++i) layer.weights[i] = i % 3 == 0 ? INT16_MIN : INT16_MAX;
  layer.judge();
  expect_exact(layer, 1, random);
}

// INQ reaches +-128, which int8 does not hold.
TEST(Gemm, PowersOfTwoNeedNoMultiplication) {
  const unsigned seed = 20260210;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int bits = 2; bits <= 5; ++bits) {
    LayerCase layer(product(5, 19, 300), {8, 8}, Pattern::random, random);
    for (int16_t& w : layer.weights) {
      const int power = 1 << random() % (1U << (bits - 2));
      w = static_cast<int16_t>(random() % 3 == 0 ? 0 : (random() % 2 == 0 ? power : -power));
    }
    layer.judge();
    EXPECT_EQ(choose_gemm(layer.gemm(), Isa::reference).name, "gemm_reference_shift_add");
    EXPECT_TRUE(expect_exact(layer, 2, random).contains("gemm_reference_shift_add"));
    layer.weights[7] = 3;
    EXPECT_EQ(choose_gemm(layer.gemm(), Isa::reference).name, "gemm_reference");
  }
}

TEST(Gemm, WindowsEndWhereALaneWouldLeaveInt16) {
  std::mt19937 random(1);
  // Inputs are all 1, so an int16 lane sums its weights: 2 of each 4. One more than each of these sums overflows.
  for (const auto& [weight, steps, last] : {std::array{127, 129, 1}, std::array{-128, 128, -1}}) {
    LayerCase layer(product(7, 16, 4 * 300), {1, 8}, Pattern::all_positive, random);
    layer.zero_code = 0;
    for (size_t i = 0; i < layer.weights.size(); ++i) {
      const int step = static_cast<int>(i % 1200 / 4);
      layer.weights[i] = static_cast<int16_t>(step < steps ? weight : (i % 2 == 0 ? last : 0));
    }
    layer.judge();
    expect_exact(layer, 1, random);
  }
}

TEST(Gemm, PairsThatMaySaturateAreSplit) {
  const unsigned seed = 20260216;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (const double deviation : {15.0, 25.0, 36.0}) {
    LayerCase layer(product(14, 37, 701), {8, 8}, Pattern::all_positive, random);
    std::normal_distribution<double> weights(0, deviation);
    for (int16_t& w : layer.weights) w = static_cast<int16_t>(std::clamp(std::lround(weights(random)), -128L, 127L));
    layer.judge();
    EXPECT_EQ(expect_exact(layer, 1, random).contains("gemm_avx2_maddubs16"), is_supported(Isa::avx2)) << deviation;
  }
}

TEST(Gemm, DeepestAccumulatorThatFits) {
  std::mt19937 random(1);
  // 255 * 127 * 66311 = 2147481735, less than 2^31 by 1913
  for (const int sign : {1, -1}) {
    LayerCase layer(product(2, 2, 66311), {8, 8}, Pattern::all_positive, random);
    layer.zero_code = 0;
    std::ranges::fill(layer.weights, static_cast<int16_t>(127 * sign));
    std::ranges::fill(layer.bias, 1912 * sign);
    layer.judge();
    ASSERT_EQ(layer.accumulators[0], sign * int64_t{INT32_MAX});
    expect_exact(layer, 1, random);
    layer.bias[1] = 1913 * sign;
    for (const GemmKernel& kernel : gemm_kernels()) EXPECT_THROW(kernel.pack(layer.gemm()), Error) << kernel.name;
  }
}

TEST(Gemm, PartialSumsMayWrapWhereTheAccumulatorFits) {
  std::mt19937 random(1);
  // Without the zero code the sum is 255 * 127 * 100000 > 2^31; centred it is half of that.
  LayerCase layer(product(1, 17, 100000), {8, 8}, Pattern::all_positive, random);
  layer.zero_code = 128;
  layer.judge();
  expect_exact(layer, 1, random);
}

/// Codes of accumulators, each in a channel of its own, by every kernel.
template <class Check>
void for_each_kernels_codes(const std::vector<int32_t>& accumulators, const Requantization& requantization,
                            Check check) {
  const auto channels = static_cast<int64_t>(accumulators.size());
  const std::vector<int16_t> weights(accumulators.size(), 0);  // the accumulators are the biases
  const GemmProblem problem{.depth = 1,
                            .columns = channels,
                            .quant_max = 1,
                            .weights = weights,
                            .bias = accumulators,
                            .requantization = requantization};
  const uint8_t input = 0;
  for (const GemmKernel& kernel : gemm_kernels()) {
    if (!is_supported(kernel.isa)) continue;
    const auto packed = kernel.pack(problem);
    AlignedVector<std::byte> scratch(packed->scratch_bytes(1));
    std::vector<uint8_t> codes(accumulators.size());
    packed->run(
        {.input = &input, .rows = 1, .input_stride = 1, .output = {codes.data(), nullptr}, .output_stride = channels},
        {0, packed->work_items(1)}, scratch.data());
    check(kernel, codes);
  }
}

/// An accumulator up to `largest` whose product with `multiplier` (odd) lies one unit from a tie of the division by
/// 2^shift; 0 where there is none.
int32_t next_to_a_tie(int64_t multiplier, int64_t unit, int shift, int32_t largest) {
  uint64_t inverse = 1;  // of the multiplier, modulo 2^64, by Newton's iteration
  for (int i = 0; i < 6; ++i) inverse *= 2 - static_cast<uint64_t>(multiplier) * inverse;
  const uint64_t modulus = uint64_t{1} << shift;
  const uint64_t accumulator = ((modulus / 2 + static_cast<uint64_t>(unit)) * inverse) % modulus;
  return accumulator <= static_cast<uint64_t>(largest) ? static_cast<int32_t>(accumulator) : 0;
}

void expect_exact_next_to_ties(int shift, int32_t largest) {
  std::vector<int32_t> accumulators;
  std::vector<core::Multiplier> multipliers;
  const auto add = [&](int32_t accumulator, int32_t multiplier) {
    accumulators.push_back(accumulator);
    multipliers.push_back({multiplier, shift});
  };
  for (int32_t multiplier = (1 << 23) + 1; multiplier < (1 << 24); multiplier += 2) {
    for (const int unit : {-1, 1}) {
      if (const int32_t accumulator = next_to_a_tie(multiplier, unit, shift, largest); accumulator != 0) {
        add(accumulator, multiplier);
      }
    }
  }
  ASSERT_GT(accumulators.size(), 20U);
  for (int32_t odd = 9; odd < 16; odd += 2) {
    for (int32_t other = 1; other <= largest >> (shift - 21); other += 2) {
      add(other << (shift - 21), odd << 20);
      add(-(other << (shift - 21)), odd << 20);
    }
  }
  for_each_kernels_codes(
      accumulators, {.multipliers = multipliers, .zero_point = 100}, [&](const GemmKernel& kernel, const auto& codes) {
        for (size_t c = 0; c < codes.size(); ++c) {
          const oracle::Wide steps = oracle::requantize(accumulators[c], multipliers[c], core::RequantPolicy::exact);
          ASSERT_TRUE(codes[c] == std::clamp<oracle::Wide>(steps + 100, 0, 255))
              << kernel.name << ": " << accumulators[c] << " * " << multipliers[c].multiplier << " >> " << shift;
        }
      });
}

TEST(Gemm, NextToATieThatDoublesWouldHit) { expect_exact_next_to_ties(48, INT32_MAX); }

TEST(Gemm, NextToATieThatFloatsWouldHit) { expect_exact_next_to_ties(40, (1 << 24) - 1); }

// 2^24 + 1 is no float, and half of it is a tie.
TEST(Gemm, AccumulatorsBeyondFloats) {
  for (const int32_t accumulator : {(1 << 24) - 1, (1 << 24) + 1, (1 << 25) + 3}) {
    for (const int shift : {23, 30, 40, 62}) {
      const core::Multiplier multiplier{(1 << 24) - 1, shift};
      for_each_kernels_codes({accumulator, -accumulator}, {.multipliers = {&multiplier, 1}, .zero_point = 128},
                             [&](const GemmKernel& kernel, const auto& codes) {
                               for (const int sign : {1, -1}) {
                                 const oracle::Wide steps =
                                     oracle::requantize(sign * accumulator, multiplier, core::RequantPolicy::exact);
                                 EXPECT_TRUE(codes[sign > 0 ? 0 : 1] == std::clamp<oracle::Wide>(steps + 128, 0, 255))
                                     << kernel.name << ": " << sign * accumulator << " >> " << shift;
                               }
                             });
    }
  }
}

// Around every tie that a code may come from and at the ends of int32, for every shift.
TEST(Gemm, ShiftsRoundHalfToEvenAndNeverWrap) {
  std::vector<int32_t> accumulators;
  std::vector<core::Multiplier> multipliers;
  const auto add = [&](int64_t accumulator, int shift) {
    if (std::abs(accumulator) > INT32_MAX) return;
    accumulators.push_back(static_cast<int32_t>(accumulator));
    multipliers.push_back({1, shift});
  };
  for (int shift = -31; shift <= 62; ++shift) {
    const int64_t half_step = shift >= 1 && shift <= 32 ? int64_t{1} << (shift - 1) : 1;
    for (int64_t halves = -530; halves <= 530; ++halves) {
      for (const int nudge : {-1, 0, 1}) add(halves * half_step + nudge, shift);
    }
    for (int64_t bit = 0; bit <= 31; ++bit) {
      for (const int64_t nudge : {-2, -1, 0, 1}) {
        add((int64_t{1} << bit) + nudge, shift);
        add(-(int64_t{1} << bit) - nudge, shift);
      }
    }
  }
  ASSERT_GT(accumulators.size(), 100000U);
  for (const int zero_point : {0, 128, 255}) {
    const Requantization requantization{core::RequantPolicy::shift, multipliers, zero_point, zero_point / 100, 254};
    for_each_kernels_codes(accumulators, requantization, [&](const GemmKernel& kernel, const auto& codes) {
      for (size_t c = 0; c < codes.size(); ++c) {
        const oracle::Wide code =
            oracle::requantize(accumulators[c], multipliers[c], core::RequantPolicy::shift) + zero_point;
        ASSERT_TRUE(codes[c] == std::clamp<oracle::Wide>(code, zero_point / 100, 254))
            << kernel.name << ": " << accumulators[c] << " >> " << multipliers[c].shift << " gave " << int{codes[c]};
      }
    });
  }
}

TEST(Gemm, FewBitsRunOnNarrowSums) {
  if (!is_supported(Isa::avx2)) GTEST_SKIP() << "this CPU has no AVX2";
  std::mt19937 random(20260208);
  const auto chosen = [&](Widths widths, Pattern pattern) {
    return choose_gemm(LayerCase(product(1, 40, 2304), widths, pattern, random).gemm(), Isa::avx2).name;
  };
  EXPECT_EQ(chosen({2, 2}, Pattern::random), "gemm_avx2_shuffle8");
  for (const Widths widths : {Widths{4, 4}, Widths{8, 4}, Widths{8, 5}, Widths{6, 6}}) {
    EXPECT_EQ(chosen(widths, Pattern::random), "gemm_avx2_maddubs16")
        << "A" << widths.activation << "W" << widths.weight;
  }
  EXPECT_EQ(chosen({8, 7}, Pattern::pairs), "gemm_avx2_maddubs16") << "windows of one step";
  EXPECT_EQ(chosen({8, 8}, Pattern::pairs), "gemm_avx2_madd16") << "every step may saturate";
}

TEST(Gemm, VnniTakesEveryWidth) {
  std::mt19937 random(20260216);
  for (const Isa isa : {Isa::avxvnni, Isa::avx512vnni}) {
    if (!is_supported(isa)) continue;
    const std::string prefix = "gemm_" + std::string(isa_name(isa));
    LayerCase layer(product(1, 40, 2304), {8, 8}, Pattern::pairs, random);
    EXPECT_EQ(choose_gemm(layer.gemm(), isa).name, prefix + "_dpbusd");
    layer.weights[7] = 128;
    EXPECT_EQ(choose_gemm(layer.gemm(), isa).name, prefix + "_dpwssd") << "a weight beyond int8";
  }
}

TEST(Gemm, EmptyInput) {
  std::mt19937 random(1);
  const LayerCase layer(product(0, 5, 7), {8, 8}, Pattern::random, random);
  expect_exact(layer, 1, random);
}

TEST(Gemm, RejectsWhatItDoesNotDescribe) {
  std::mt19937 random(1);
  const LayerCase layer(product(1, 3, 4), {8, 8}, Pattern::random, random);
  const GemmProblem valid = layer.gemm();
  EXPECT_NO_THROW(validate(valid));
  const auto rejects = [&](auto change, const std::string& part) {
    GemmProblem problem = valid;
    change(problem);
    try {
      validate(problem);
      ADD_FAILURE() << "accepted; expected an error about " << part;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  const core::Multiplier unnormalized{5, 3};
  const core::Multiplier one{1 << 23, 23};
  const std::vector<core::Multiplier> two(2, one);
  rejects([](auto& p) { p.quant_max = 256; }, "quant_max must be in [1, 255], got 256");
  rejects([](auto& p) { p.quant_max = 0; }, "quant_max");
  rejects([](auto& p) { p.zero_code = 256; }, "zero_code must be in [0, 255], got 256");
  rejects([](auto& p) { p.depth = 0; }, "depth");
  rejects([](auto& p) { p.columns = 0; }, "columns");
  rejects([](auto& p) { p.columns = 4; }, "4 x 4 weights, got 12");
  rejects([](auto& p) { p.bias = p.bias.first(2); }, "bias must have 3 entries, got 2");
  rejects(
      [&](auto& p) {
        p.requantization.multipliers = {&unnormalized, 1};
      },
      "multiplier must be 0 or of magnitude in [8388608, 16777216), got 5");
  rejects([&](auto& p) { p.requantization.multipliers = two; }, "got 2");
  rejects([&](auto& p) { p.requantization = {core::RequantPolicy::shift, {&one, 1}}; }, "multiplier must be 1");
  rejects([](auto& p) { p.requantization.clamp_max = 256; }, "clamp");
  rejects([](auto& p) { p.requantization.clamp_min = 300; }, "clamp");
  rejects([](auto& p) { p.requantization.zero_point = -1; }, "zero_point");
}

}  // namespace
}  // namespace qstep::kernels::test
