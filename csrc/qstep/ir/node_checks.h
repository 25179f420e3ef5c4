#pragma once
// What validate and infer_shapes share: errors that name the node, and the range proof of an average.
#include <string>
#include <utility>

#include "qstep/core/error.h"
#include "qstep/ir/graph.h"

namespace qstep::ir {

std::string to_text(const Shape& shape);  ///< "[1, 3, 32, 32]"

/// require() whose message starts with the node's name and kind.
template <class... Args>
void require_at(const Node& node, bool condition, fmt::format_string<Args...> message, Args&&... args) {
  if (!condition) [[unlikely]] {
    fail("graph: node '{}' ({}): {}", node.name, kind_name(node.operation),
         fmt::format(message, std::forward<Args>(args)...));
  }
}

/// Throws unless an average over `taps` codes stays within 64 bits.
void require_average_in_range(const Node& node, const AvgPool2d& pool, int64_t taps);

}  // namespace qstep::ir
