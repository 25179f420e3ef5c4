#include "qstep/engine/profile.h"

#include <algorithm>

#include "qstep/ir/weight.h"

namespace qstep::engine {

int64_t product_count(const ir::Node& node, const ir::Shape& output_shape) {
  const ir::Weight* weight = ir::weight_of(node);
  if (weight == nullptr) return 0;
  const int64_t depth = ir::element_count(weight->shape, node.name) / weight->shape[0];
  return ir::element_count(output_shape, node.name) * depth;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, middle);
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

}  // namespace qstep::engine
