#pragma once
// Which part of a network goes through a batch slice by slice.
//
// The first layers of a network have few weights and large images: slice by slice, what a layer writes is still in cache
// when the next one reads it. Later layers have many weights, and the whole batch shares a reading of them.
#include <memory>
#include <span>

#include "qstep/engine/plan.h"

namespace qstep::engine {

struct BatchSlices {
  size_t nodes = 0;   ///< the first so many; of their values only the last one's output is read by others
  int64_t count = 1;  ///< slices of equal size; 1 where nodes is 0
};

/// Of the nodes that `request` needs, in the order of execution, with the shapes of all values.
BatchSlices choose_slices(const ir::Graph& graph, std::span<const std::unique_ptr<NodeKernel>> kernels,
                          const Request& request, std::span<const size_t> nodes, std::span<const ir::Shape> shapes,
                          int num_threads);

}  // namespace qstep::engine
