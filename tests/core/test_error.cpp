#include <gtest/gtest.h>

#include <string>

#include "qstep/core/error.h"

namespace qstep {
namespace {

TEST(Error, RequireFormatsItsMessage) {
  EXPECT_NO_THROW(require(true, "unused {}", 1));
  try {
    require(false, "conv2d: bit_width must be in [2, 8], got {}", 9);
    FAIL() << "did not throw";
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()), "conv2d: bit_width must be in [2, 8], got 9");
  }
}

}  // namespace
}  // namespace qstep
