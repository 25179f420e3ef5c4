#pragma once
// What a run does, for one set of input shapes: steps in order, and where every buffer lies.
#include <memory>
#include <span>
#include <vector>

#include "qstep/engine/arena.h"
#include "qstep/engine/nodes/node_kernel.h"
#include "qstep/engine/step.h"
#include "qstep/ir/graph.h"

namespace qstep::engine {

/// What a run is given and what it has to deliver. Nodes that no output depends on are left out.
struct Request {
  std::span<const size_t> nodes;  ///< in the order of execution
  std::span<const ir::ValueId> inputs;
  std::span<const ir::ValueId> outputs;
  std::vector<ir::Shape> input_shapes;
};

/// Buffers are numbered: the caller's inputs, the caller's outputs, then those in the arena.
///
/// The first `sliced_steps` steps are made for a slice of the batch (batch_slices.h) and run once for each slice, with the
/// addresses of the buffers that hold the whole batch moved on.
struct Plan {
  struct PlannedStep {
    Step step;
    size_t node;             ///< the node that it belongs to
    int32_t scratch_buffer;  ///< -1: none
    int64_t scratch_stride;  ///< bytes from one thread's scratch to the next
    int threads;
  };

  struct SlicedBuffer {
    int32_t buffer;
    int64_t slice_bytes;
  };

  std::vector<PlannedStep> steps;
  size_t sliced_steps = 0;
  int64_t slices = 1;
  std::vector<SlicedBuffer> sliced_buffers;
  std::vector<Lifetime> arena_buffers;
  int64_t arena_bytes = 0;
  int64_t live_bytes = 0;     ///< largest_live_bytes of the arena's buffers without scratch
  int64_t scratch_bytes = 0;  ///< the most that one step needs, of all its threads
  std::vector<ir::Shape> output_shapes;
};

/// Throws Error naming the node that cannot take its input's shape.
Plan make_plan(const ir::Graph& graph, std::span<const std::unique_ptr<NodeKernel>> kernels, const Request& request,
               int num_threads);

/// Bytes of one element of a value.
inline size_t element_bytes(ir::ValueKind kind) { return kind == ir::ValueKind::codes ? 1 : 4; }

}  // namespace qstep::engine
