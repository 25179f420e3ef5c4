#pragma once
#include <gtest/gtest.h>

#include <string>

#include "qstep/core/error.h"

namespace qstep::test {

/// The message of the qstep::Error that `action` throws; a failure where it throws none.
template <class Action>
std::string error_of(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no error was thrown";
  return "";
}

/// `action` throws a qstep::Error whose message contains each of `parts`.
template <class Action, class... Parts>
void expect_error(Action&& action, const Parts&... parts) {
  const std::string message = error_of(action);
  for (const std::string& part : {std::string(parts)...}) {
    EXPECT_NE(message.find(part), std::string::npos) << "'" << part << "' is missing in: " << message;
  }
}

}  // namespace qstep::test
