#include "qstep/ir/graph.h"

#include <array>

#include "qstep/core/error.h"
#include "qstep/ir/node_checks.h"

namespace qstep::ir {

const char* kind_name(const Operation& operation) {
  static constexpr std::array names = {"quantize",   "conv2d",     "linear",    "bilinear", "lookup",
                                       "max_pool2d", "avg_pool2d", "concat",    "reshape",  "permute",
                                       "slice",      "pad",        "dequantize"};
  static_assert(names.size() == std::variant_size_v<Operation>);
  return names[operation.index()];
}

const char* encoding_name(const WeightEncoding& encoding) {
  static constexpr std::array names = {"uniform", "power_of_two", "code_book", "piecewise"};
  static_assert(names.size() == std::variant_size_v<WeightEncoding>);
  return names[encoding.index()];
}

std::string to_text(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

// Called in every run, which may not allocate: the text of a shape is made for an error only.
int64_t element_count(const Shape& shape, std::string_view what) {
  require(shape.size() <= max_rank, "{}: a shape has at most {} dimensions, got {}", what, max_rank, shape.size());
  bool empty = false;
  for (const int64_t size : shape) {
    if (size < 0) fail("{}: sizes must be >= 0, got {}", what, to_text(shape));
    empty = empty || size == 0;
  }
  if (empty) return 0;
  int64_t count = 1;
  for (const int64_t size : shape) {
    if (size > max_elements / count) fail("{}: at most 2^40 elements, got shape {}", what, to_text(shape));
    count *= size;
  }
  return count;
}

}  // namespace qstep::ir
