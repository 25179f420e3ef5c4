// Every kernel on layers that combine several accumulators per output.
#include <gtest/gtest.h>

#include "kernels/layer_case.h"
#include "qstep/kernels/epilogue/combination.h"

namespace qstep::kernels::test {
namespace {

using core::Window;

template <class Kernels, class Problem>
void expect_exact(const Kernels& kernels, const Problem& problem, const SeveralSums& layer, std::mt19937& random) {
  int used = 0;
  for (const auto& kernel : kernels) {
    if (!is_supported(kernel.isa) || !kernel.supports(problem)) continue;
    ++used;
    EXPECT_EQ(difference(kernel, layer, 1 + static_cast<int>(random() % 3), random), "");
  }
  EXPECT_GE(used, 1);
}

TEST(SeveralSums, MatrixProductsAreExact) {
  const unsigned seed = 20261122;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int sums = 1; sums <= max_sums; ++sums) {
    for (const int64_t rows : {1, 2, 5, 13, 29}) {
      const auto columns = static_cast<int64_t>(1 + random() % 40);
      const auto depth = static_cast<int64_t>(1 + random() % 300);
      const int weight_bits = 2 + static_cast<int>(random() % 7);
      const SeveralSums layer({rows, depth, 1, 1, columns, 1, Window{}}, sums, {8, weight_bits}, random);
      expect_exact(gemm_kernels(), layer.gemm(), layer, random);
      ASSERT_FALSE(HasFailure()) << sums << " sums";
    }
  }
}

TEST(SeveralSums, ConvolutionsAreExact) {
  const unsigned seed = 20261123;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const Window same{{3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}};
  const Window stride{{3, 3}, {2, 2}, {1, 1, 1, 1}, {1, 1}};
  for (int sums = 1; sums <= max_sums; ++sums) {
    for (const oracle::Convolution& shape :
         {oracle::Convolution{1, 64, 7, 6, 33, 1, same}, oracle::Convolution{2, 18, 9, 9, 20, 2, stride},
          oracle::Convolution{1, 35, 8, 9, 35, 35, same}, oracle::Convolution{1, 35, 8, 9, 35, 35, stride},
          oracle::Convolution{1, 3, 9, 11, 17, 1, same}, oracle::Convolution{1, 32, 5, 5, 48, 1, Window{}}}) {
      for (const int bits : {2, 4, 8}) {
        const SeveralSums layer(shape, sums, {bits, bits}, random);
        expect_exact(conv2d_kernels(), layer.conv2d(), layer, random);
        ASSERT_FALSE(HasFailure()) << sums << " sums, " << bits << " bits";
      }
    }
  }
}

}  // namespace
}  // namespace qstep::kernels::test
