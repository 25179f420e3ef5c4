#pragma once
// Where the time of a run goes.
#include <cstdint>
#include <string_view>
#include <vector>

#include "qstep/ir/graph.h"

namespace qstep::engine {

struct Profile {
  struct Node {
    std::string_view kernel;
    double seconds = 0;    ///< median of the runs; 0 where the node takes no step of its own
    int64_t products = 0;  ///< of codes and weights, as the layer is defined: padded taps count, savings do not
    ir::Shape output_shape;
  };
  std::vector<Node> nodes;  ///< as in the graph
  double seconds = 0;       ///< of all nodes of a run, median
  double fastest = 0;       ///< of the fastest one: close to the median on a machine that does nothing else
  double peak = 0;          ///< products per second: kernels::measure_peak times the threads
  int threads = 1;
};

/// Products of a layer with weights whose output has this shape; 0 for other nodes.
int64_t product_count(const ir::Node& node, const ir::Shape& output_shape);

/// The middle one, or the mean of the two in the middle. values must not be empty.
double median(std::vector<double> values);

}  // namespace qstep::engine
