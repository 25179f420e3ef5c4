#pragma once
#include <cstddef>

namespace qstep::test {

struct AllocationCount {
  size_t count = 0;
  size_t largest = 0;  ///< bytes of the largest single one
};

/// Allocations of this program, in all threads, since the last call. Linking this file replaces operator new.
AllocationCount take_allocations();

}  // namespace qstep::test
