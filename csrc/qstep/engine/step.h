#pragma once
// One piece of a plan: work items over buffers whose addresses are known at run time only.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "qstep/engine/view.h"
#include "qstep/kernels/layout.h"

namespace qstep::engine {

using kernels::Range;

/// Where the buffers of one run lie.
struct Memory {
  std::byte* const* buffers;
  std::atomic<bool>* found_nan;  ///< set by a step that quantizes floats

  template <class T>
  T* at(const View& view) const {
    return reinterpret_cast<T*>(buffers[view.buffer]) + view.offset;
  }
};

struct Step {
  int64_t items = 1;         ///< any partition into ranges gives the same result
  int64_t cost = 0;          ///< about the nanoseconds of one thread: tells whether threads are worth waking
  size_t scratch_bytes = 0;  ///< of each thread
  std::function<void(const Memory& memory, Range items, std::byte* scratch)> run;
};

}  // namespace qstep::engine
