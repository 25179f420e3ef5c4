#pragma once
#include <cstddef>

namespace qstep::test {

/// Bytes of the largest single allocation of this program since the last call. Linking this file replaces operator new.
size_t take_largest_allocation();

}  // namespace qstep::test
