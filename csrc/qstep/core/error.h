#pragma once
// The one exception of qstep and the one way to raise it.
//
// Every message names the operation, the argument, what is allowed and what was found, for example
//   "conv2d: bit_width must be in [2, 8], got 9".
#include <stdexcept>
#include <string>
#include <utility>

// Where the build links fmt's library, its headers compile in half a second instead of three.
#if !defined(FMT_HEADER_ONLY) && !defined(FMT_SHARED)
#define FMT_HEADER_ONLY
#endif
#include <fmt/format.h>

namespace qstep {

/// Bad input: a value, shape, file or platform that an operation does not accept.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> message, Args&&... args) {
  throw Error(fmt::format(message, std::forward<Args>(args)...));
}

/// Throws Error with the formatted message unless `condition` holds.
template <class... Args>
void require(bool condition, fmt::format_string<Args...> message, Args&&... args) {
  if (!condition) [[unlikely]] {
    fail(message, std::forward<Args>(args)...);
  }
}

}  // namespace qstep
