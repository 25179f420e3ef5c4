#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "qstep/core/error.h"
#include "qstep/kernels/conv2d/conv2d.h"
#include "qstep/kernels/isa.h"
#include "qstep/kernels/kernel_table.h"

namespace qstep::kernels {
namespace {

TEST(Isa, ReferenceIsAlwaysThereAndNamesRoundTrip) {
  EXPECT_EQ(built_isas().front(), Isa::reference);
  EXPECT_TRUE(is_supported(Isa::reference));
  for (const Isa isa : built_isas()) {
    EXPECT_TRUE(!is_supported(isa) || isa_from_name(isa_name(isa)) == isa);
  }
}

/// The tests of kernels pass over those of an instruction set that this CPU lacks. Here each is named.
class KernelsOf : public testing::TestWithParam<Isa> {};
INSTANTIATE_TEST_SUITE_P(Isa, KernelsOf, testing::ValuesIn(built_isas()),
                         [](const auto& info) { return std::string(isa_name(info.param)); });

TEST_P(KernelsOf, AreTestedOnThisCpu) {
  if (!is_supported(GetParam())) {
    GTEST_SKIP() << "this CPU has no " << isa_name(GetParam()) << ": none of its kernels is tested here";
  }
}

TEST(Isa, DefaultIsTheBestSupportedUnlessTheEnvironmentNamesOne) {
  if (const char* name = std::getenv("QSTEP_ISA"); name != nullptr && *name != '\0') {
    EXPECT_EQ(isa_name(current_isa()), name);
    return;
  }
  for (const Isa isa : built_isas()) EXPECT_TRUE(!is_supported(isa) || isa <= current_isa());
}

TEST(IsaDeathTest, TheEnvironmentForcesIt) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // a fresh process, which has not chosen yet
  const auto exit_as = [](const char* name, bool (*expected)()) {
    setenv("QSTEP_ISA", name, 1);
    std::exit(expected() ? 0 : 1);
  };
  EXPECT_EXIT(exit_as("reference", [] { return current_isa() == Isa::reference; }), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(exit_as("mmx",
                      [] {
                        try {
                          current_isa();
                          return false;
                        } catch (const Error&) {
                          return true;
                        }
                      }),
              testing::ExitedWithCode(0), "");
}

TEST(Isa, CanBeForced) {
  const std::string before(isa_name(current_isa()));
  set_isa("reference");
  EXPECT_EQ(current_isa(), Isa::reference);
  set_isa(before);
  EXPECT_EQ(isa_name(current_isa()), before);
}

TEST(Isa, AnUnknownNameIsAnErrorThatListsWhatThereIs) {
  try {
    set_isa("sse9");
    FAIL() << "accepted";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("'sse9'"), std::string::npos) << message;
    for (const Isa isa : built_isas()) EXPECT_NE(message.find(isa_name(isa)), std::string::npos) << message;
    EXPECT_NE(message.find("CPU"), std::string::npos) << message;
  }
}

TEST(KernelTable, TheReferenceServesOnlyItself) {
  EXPECT_TRUE(may_serve(Isa::reference, Isa::reference));
  EXPECT_FALSE(may_serve(Isa::reference, Isa::avx2));
  EXPECT_FALSE(may_serve(Isa::avx2, Isa::reference));
  EXPECT_TRUE(may_serve(Isa::avx2, Isa::avx2));
}

struct ToyKernel {
  std::string_view name;
  Isa isa;
  bool (*supports)(int);
};

TEST(KernelTable, TheFirstRowThatSupportsTheProblemWins) {
  static constexpr ToyKernel table[] = {{"small", Isa::reference, [](int size) { return size < 10; }},
                                        {"medium", Isa::reference, [](int size) { return size < 100; }}};
  const std::span<const ToyKernel> rows = table;
  EXPECT_EQ(choose_kernel("toy", rows, 5, Isa::reference).name, "small");
  EXPECT_EQ(choose_kernel("toy", rows, 50, Isa::reference).name, "medium");
  try {
    choose_kernel("toy", rows, 500, Isa::reference);
    FAIL() << "found a kernel";
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()),
              "toy: no kernel for ISA reference takes this problem; built are small, medium");
  }
}

TEST(KernelTable, RowsThatDoNotSuitTheProblemAreSkipped) {
  struct Kernel {
    std::string_view name;
    Isa isa;
    bool (*supports)(int);
    bool (*suits)(int) = nullptr;
  };
  constexpr auto all = [](int) { return true; };
  static constexpr Kernel table[] = {
      {"large", Isa::reference, all, [](int size) { return size >= 10; }},
      {"medium", Isa::reference, [](int size) { return size != 7; }, [](int size) { return size >= 5; }},
      {"any", Isa::reference, all}};
  const std::span<const Kernel> rows = table;
  EXPECT_EQ(choose_kernel("toy", rows, 10, Isa::reference).name, "large");
  EXPECT_EQ(choose_kernel("toy", rows, 9, Isa::reference).name, "medium");
  EXPECT_EQ(choose_kernel("toy", rows, 7, Isa::reference).name, "any");
  EXPECT_EQ(choose_kernel("toy", rows, 4, Isa::reference).name, "any");
}

TEST(KernelTable, DispatchFollowsTheIsa) {
  const std::vector<int16_t> weights(16, 3);
  const std::vector<int32_t> bias(4, 0);
  const Conv2dProblem problem{
      .in_channels = 4, .out_channels = 4, .weights = weights, .bias = bias, .requantization = {}};
  EXPECT_EQ(choose_conv2d(problem, Isa::reference).name, "conv2d_reference");
  if (is_supported(Isa::avx2)) {
    EXPECT_EQ(choose_conv2d(problem, Isa::avx2).isa, Isa::avx2);
  }
}

}  // namespace
}  // namespace qstep::kernels
