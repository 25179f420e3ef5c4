#pragma once
// Takes the steps of a plan, in order, and shares each among threads.
#include <cstddef>
#include <span>

#include "qstep/engine/plan.h"
#include "qstep/engine/thread_pool.h"
#include "qstep/ir/graph.h"

namespace qstep::engine {

/// Runs a plan, on the threads of `parallel_for` or, where that is empty, of the shared pool. `buffers` are the addresses
/// of all its buffers, moved while slices run; `seconds`, where not empty, gets the time of each step. Throws Error where
/// a float input holds NaN.
void run_plan(const Plan& plan, const ir::Graph& graph, const ParallelFor& parallel_for, std::span<std::byte*> buffers,
              std::span<double> seconds = {});

}  // namespace qstep::engine
