// The torch-free parts of the fake quantizers: 16-bit types, tiles, and loops that give the same bits however they are run.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string_view>
#include <vector>

#include "qstep/core/grid.h"
#include "qstep/kernels/isa.h"
#include "qstep/methods/half_types.h"
#include "qstep/methods/iao/cpu.h"
#include "qstep/methods/lsq_plus/cpu.h"
#include "qstep/methods/tiling.h"

namespace qstep::methods {
namespace {

// --- 16-bit types ----------------------------------------------------------------------------------------------------

/// The value of a 16-bit float from its fields.
double decode(uint16_t bits, int exponent_bits, int mantissa_bits) {
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) {
    return mantissa == 0 ? sign * std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  }
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

template <class T>
void check_half_type(int exponent_bits, int mantissa_bits) {
  std::vector<uint16_t> finite;  // non-negative, ascending with their value
  for (uint32_t bits = 0; bits <= 0xFFFF; ++bits) {
    const T half{static_cast<uint16_t>(bits)};
    const double expected = decode(half.bits, exponent_bits, mantissa_bits);
    const double value = load(half);
    T back{};
    store(load(half), back);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(value) && std::isnan(load(back))) << bits;
    } else {
      ASSERT_EQ(value, expected) << bits;
      ASSERT_EQ(back.bits, half.bits) << bits;
    }
    if (bits < 0x8000 && std::isfinite(expected)) finite.push_back(half.bits);
  }
  // Between two neighbours: below the middle, the middle, above it. The last gap leads to infinity.
  for (size_t i = 0; i < finite.size(); ++i) {
    const double low = decode(finite[i], exponent_bits, mantissa_bits);
    const bool is_last = i + 1 == finite.size();
    const double high = is_last ? 2 * low - decode(finite[i - 1], exponent_bits, mantissa_bits)
                                : decode(finite[i + 1], exponent_bits, mantissa_bits);
    const uint16_t above = is_last ? static_cast<uint16_t>(finite[i] + 1) : finite[i + 1];
    const auto middle = static_cast<float>((low + high) / 2);
    const uint16_t even = (finite[i] & 1) == 0 ? finite[i] : above;
    const float inputs[] = {std::nextafter(middle, 0.0F), middle,
                            std::nextafter(middle, std::numeric_limits<float>::infinity())};
    const uint16_t expected[] = {finite[i], even, above};
    for (int k = 0; k < 3; ++k) {
      T positive{};
      T negative{};
      store(inputs[k], positive);
      store(-inputs[k], negative);
      ASSERT_EQ(positive.bits, expected[k]) << inputs[k];
      ASSERT_EQ(negative.bits, expected[k] | 0x8000) << -inputs[k];
    }
  }
  T huge{};
  store(std::numeric_limits<float>::max(), huge);
  EXPECT_EQ(load(huge), std::numeric_limits<float>::infinity());
}

TEST(HalfTypes, Float16ConvertsExactlyAndRoundsHalfToEven) { check_half_type<Float16>(5, 10); }
TEST(HalfTypes, BFloat16ConvertsExactlyAndRoundsHalfToEven) { check_half_type<BFloat16>(8, 7); }

// --- tiles -----------------------------------------------------------------------------------------------------------

const ChannelLayout layouts[] = {
    {1, 1, 0}, {1, 0, 0},   {1, 1, 1},    {1, 1, 300},  {1, 1, 40001}, {7, 3, 1},     {1000, 70, 1}, {3, 1000, 1},
    {5, 6, 9}, {33, 65, 4}, {2, 3, 9001}, {1, 4000, 9}, {700, 2, 3},   {1, 512, 257}, {9, 10, 256},
};

TEST(Tiling, EveryElementIsInOneTileAndEveryPartialSumIsWrittenOnce) {
  for (const ChannelLayout layout : layouts) {
    const Tiling tiling(layout);
    std::vector<int> elements(static_cast<size_t>(layout.outer * layout.channels * layout.inner));
    std::vector<int> partial(static_cast<size_t>(tiling.partial_rows() * layout.channels));
    for (int64_t index = 0; index < tiling.tiles(); ++index) {
      const Tile tile = tiling.tile(index);
      for (int64_t c = tile.channel_begin; c < tile.channel_end; ++c) {
        partial.at(static_cast<size_t>(tile.partial_row * layout.channels + c)) += 1;
        for (int64_t o = tile.outer_begin; o < tile.outer_end; ++o) {
          for (int64_t i = tile.inner_begin; i < tile.inner_end; ++i) {
            elements.at(static_cast<size_t>((o * layout.channels + c) * layout.inner + i)) += 1;
          }
        }
      }
    }
    const auto is_one = [](int n) { return n == 1; };
    EXPECT_TRUE(std::all_of(elements.begin(), elements.end(), is_one))
        << layout.outer << " " << layout.channels << " " << layout.inner;
    EXPECT_TRUE(std::all_of(partial.begin(), partial.end(), is_one))
        << layout.outer << " " << layout.channels << " " << layout.inner;
  }
}

// --- loops -----------------------------------------------------------------------------------------------------------

template <class T>
struct Results {
  std::vector<T> lsq_plus, lsq_plus_grad, iao, iao_grad;
  std::vector<double> sums;

  bool operator==(const Results& other) const {
    const auto same = [](const auto& a, const auto& b) {
      return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0);
    };
    return same(lsq_plus, other.lsq_plus) && same(lsq_plus_grad, other.lsq_plus_grad) && same(iao, other.iao) &&
           same(iao_grad, other.iao_grad) && same(sums, other.sums);
  }
};

template <class T>
std::vector<T> values(size_t n, uint32_t seed, double deviation) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(0.0, deviation);
  std::vector<T> result(n);
  for (T& value : result) store(static_cast<Compute<T>>(normal(generator)), value);
  return result;
}

/// Everything that the loops compute, in ranges of `tiles_at_once` tiles.
template <class T>
Results<T> run(ChannelLayout layout, std::string_view isa, int64_t tiles_at_once) {
  kernels::set_isa(isa);
  const auto n = static_cast<size_t>(layout.outer * layout.channels * layout.inner);
  const auto channels = static_cast<size_t>(layout.channels);
  std::vector<T> x = values<T>(n, 1, 2.0);
  const std::vector<T> grad_output = values<T>(n, 2, 1.0);
  if (n > 4) store(std::numeric_limits<Compute<T>>::infinity(), x[n / 2]);
  std::vector<Compute<T>> scale(channels), offset(channels), zero_point(channels);
  for (size_t c = 0; c < channels; ++c) {
    scale[c] = Compute<T>(0.1) + Compute<T>(0.01) * static_cast<Compute<T>>(c % 17);
    offset[c] = Compute<T>(-0.3) + Compute<T>(0.05) * static_cast<Compute<T>>(c % 11);
    zero_point[c] = static_cast<Compute<T>>(c % 16);
  }
  const Tiling tiling(layout);
  const size_t partial = static_cast<size_t>(tiling.partial_rows()) * channels;
  Results<T> results{std::vector<T>(n), std::vector<T>(n), std::vector<T>(n), std::vector<T>(n),
                     std::vector<double>(2 * partial)};
  const lsq_plus::Operands<T> lsq{x.data(), scale.data(), offset.data(), 0, 15};
  const iao::Operands<T> affine{x.data(), scale.data(), zero_point.data(), 0, 15};
  for (int64_t first = 0; first < tiling.tiles(); first += tiles_at_once) {
    const int64_t last = std::min(first + tiles_at_once, tiling.tiles());
    lsq_plus::forward(lsq, results.lsq_plus.data(), tiling, first, last);
    lsq_plus::backward(lsq, lsq_plus::Boundary::strict, grad_output.data(), results.lsq_plus_grad.data(),
                       {results.sums.data(), results.sums.data() + partial}, tiling, first, last);
    iao::forward(affine, iao::Rounding::half_up, results.iao.data(), tiling, first, last);
    iao::backward(affine, grad_output.data(), results.iao_grad.data(), tiling, first, last);
  }
  return results;
}

template <class T>
class Loops : public testing::Test {
 protected:
  ~Loops() override { kernels::set_isa(kernels::isa_name(before_)); }
  kernels::Isa before_ = kernels::current_isa();
};
using Types = testing::Types<float, double, BFloat16, Float16>;
TYPED_TEST_SUITE(Loops, Types);

TYPED_TEST(Loops, InstructionSetsAndSplitsGiveTheSameBits) {
  for (const ChannelLayout layout : layouts) {
    const auto expected = run<TypeParam>(layout, "reference", 1 << 20);
    EXPECT_TRUE(expected == run<TypeParam>(layout, "reference", 1));
    for (const kernels::Isa isa : kernels::built_isas()) {
      if (!kernels::is_supported(isa)) continue;
      for (const int64_t tiles_at_once : {1, 3, 1 << 20}) {
        EXPECT_TRUE(expected == run<TypeParam>(layout, kernels::isa_name(isa), tiles_at_once))
            << kernels::isa_name(isa) << " " << layout.outer << " " << layout.channels << " " << layout.inner
            << ", seeds 1 and 2";
      }
    }
  }
}

TEST(Forward, IsTheRealValueOfTheCodeThatTheEngineComputes) {
  std::mt19937 generator(3);
  std::uniform_real_distribution<float> uniform(-3.0F, 3.0F);
  for (int i = 0; i < 100000; ++i) {
    const float x = uniform(generator);
    const float scale = std::fabs(uniform(generator)) + 0.01F;
    const float offset = uniform(generator);
    const int32_t zero_point = i % 16;
    const core::Grid learned{scale, 0, offset, -8, 7};
    ASSERT_EQ(lsq_plus::fake_quantize(x, lsq_plus::Grid<float>{scale, offset, -8, 7}),
              core::dequantize(core::quantize(x, learned), learned))
        << "seed 3, x " << x << ", scale " << scale << ", offset " << offset;
    const core::Grid affine{scale, zero_point, 0.0F, 0, 15};
    ASSERT_EQ(
        iao::fake_quantize<iao::Rounding::half_even>(x, iao::Grid<float>{scale, static_cast<float>(zero_point), 0, 15}),
        core::dequantize(core::quantize(x, affine), affine))
        << "seed 3, x " << x << ", scale " << scale;
  }
}

}  // namespace
}  // namespace qstep::methods
