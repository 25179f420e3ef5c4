#include "qstep/engine/run_plan.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>

#include "qstep/core/error.h"

namespace qstep::engine {
namespace {

void share_items(int64_t items, int threads, const ParallelFor& parallel_for, const Body& body) {
  if (threads <= 1) {
    body({0, items}, 0);
  } else if (parallel_for) {
    Work work(items, threads, body);
    parallel_for(threads, [&](int worker) { work.run(worker); });
  } else {
    ThreadPool::shared().parallel_for(items, threads, body);
  }
}

}  // namespace

void run_plan(const Plan& plan, const ir::Graph& graph, const ParallelFor& parallel_for, std::span<std::byte*> buffers,
              std::span<double> seconds) {
  using Clock = std::chrono::steady_clock;
  std::ranges::fill(seconds, 0.0);
  std::atomic<bool> found_nan = false;
  const Memory memory{buffers.data(), &found_nan};
  const auto run_step = [&](size_t i) {
    const Plan::PlannedStep& planned = plan.steps[i];
    const auto start = seconds.empty() ? Clock::time_point() : Clock::now();
    std::byte* scratch = planned.scratch_buffer < 0 ? nullptr : buffers[static_cast<size_t>(planned.scratch_buffer)];
    const auto body = [&](Range items, int worker) {
      planned.step.run(memory, items, scratch + worker * planned.scratch_stride);
    };
    share_items(planned.step.items, planned.threads, parallel_for, std::ref(body));
    if (!seconds.empty()) seconds[i] += std::chrono::duration<double>(Clock::now() - start).count();
    if (found_nan) {
      const ir::Node& node = graph.nodes[planned.node];
      fail("run: input '{}' must not hold NaN, got one where node '{}' quantizes it",
           graph.values[static_cast<size_t>(node.inputs[0])].name, node.name);
    }
  };
  const auto move_buffers = [&](int64_t slices) {
    for (const Plan::SlicedBuffer& sliced : plan.sliced_buffers) {
      buffers[static_cast<size_t>(sliced.buffer)] += slices * sliced.slice_bytes;
    }
  };
  for (int64_t slice = 0; slice < plan.slices; ++slice, move_buffers(1)) {
    for (size_t i = 0; i < plan.sliced_steps; ++i) run_step(i);
  }
  move_buffers(-plan.slices);
  for (size_t i = plan.sliced_steps; i < plan.steps.size(); ++i) run_step(i);
}

}  // namespace qstep::engine
