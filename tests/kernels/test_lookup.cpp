#include <gtest/gtest.h>

#include <random>

#include "kernels/strided.h"
#include "qstep/kernels/elementwise/lookup.h"

namespace qstep::kernels::test {
namespace {

void expect_exact(const LookupProblem& problem, int64_t batch, int64_t height, int64_t width, int64_t channels,
                  bool sliced, std::mt19937& random) {
  Strided<uint8_t> input(make_layout(batch, height, width, channels, sliced), 0);
  input.for_each(
      [&](size_t, uint8_t& code) { code = static_cast<uint8_t>(random() % static_cast<unsigned>(problem.entries)); });
  std::vector<int> expected;
  input.for_each([&](size_t, uint8_t& code) { expected.push_back(problem.table[code]); });
  for (const LookupKernel& kernel : lookup_kernels()) {
    if (!is_supported(kernel.isa)) continue;
    Strided<uint8_t> output(input.layout(), 91);
    const int64_t items = batch * height;
    kernel.run(problem, {input.data(), input.layout(), output.data(), output.layout()}, {0, items / 2});
    kernel.run(problem, {input.data(), input.layout(), output.data(), output.layout()}, {items / 2, items});
    ASSERT_EQ(output.difference(expected), "") << kernel.name << ", " << problem.entries << " entries";
  }
}

LookupProblem random_table(int32_t entries, std::mt19937& random) {
  LookupProblem problem{.entries = entries};
  for (uint8_t& value : problem.table) value = static_cast<uint8_t>(random());
  return problem;
}

TEST(Lookup, EveryTableLength) {
  std::mt19937 random(20260241);
  for (int32_t entries = 1; entries <= 256; ++entries) {
    expect_exact(random_table(entries, random), 1, 3, 10, 37, false, random);
    ASSERT_FALSE(HasFatalFailure());
  }
}

TEST(Lookup, EveryTailInEveryLayout) {
  std::mt19937 random(20260242);
  for (int64_t channels = 1; channels <= 70; ++channels) {
    for (const bool sliced : {false, true}) {
      expect_exact(random_table(256, random), 2, 2, 3, channels, sliced, random);
      ASSERT_FALSE(HasFatalFailure());
    }
  }
  expect_exact(random_table(256, random), 0, 2, 3, 5, false, random);
}

TEST(Lookup, MayWriteOverItsInput) {
  std::mt19937 random(1);
  const LookupProblem problem = random_table(256, random);
  const ImageLayout layout = ImageLayout::dense(1, 1, 1, 256);
  for (const LookupKernel& kernel : lookup_kernels()) {
    if (!is_supported(kernel.isa)) continue;
    std::vector<uint8_t> codes(256);
    for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i);
    kernel.run(problem, {codes.data(), layout, codes.data(), layout}, {0, 1});
    EXPECT_TRUE(std::equal(codes.begin(), codes.end(), problem.table.begin())) << kernel.name;
  }
}

}  // namespace
}  // namespace qstep::kernels::test
