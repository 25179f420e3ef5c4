#pragma once
// How a step's work items are shared between threads.
//
// Worker threads that sleep until there is work: outside a run they cost nothing. During a run they look for the next
// step's work, but never for longer than some microseconds.
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "qstep/kernels/layout.h"

namespace qstep::engine {

using kernels::Range;

/// Runs some items on worker `worker`, 0 up to the number of threads.
using Body = std::function<void(Range items, int worker)>;

/// Threads of the caller: calls task(0), ..., task(tasks - 1), each once, on any threads and in any order, and returns
/// when all have returned. A task may be over at once, where others have done its work.
using ParallelFor = std::function<void(int tasks, const std::function<void(int)>& task)>;

/// Items shared between workers. Each has a portion, the same one of every step with as many items, so that it finds what
/// it wrote in its own cache (beyond max_portions, workers share them); it takes most of what is left of it at a time,
/// and then half of what others have left.
class Work {
 public:
  Work(int64_t items, int workers, const Body& body);

  /// Until nothing is left.
  void run(int worker);
  /// Nobody starts another range.
  void stop();

 private:
  struct alignas(kernels::memory_alignment) Portion {
    std::atomic<int64_t> next = 0;
    int64_t end = 0;
  };
  static constexpr int max_portions = 16;

  /// The next range of a portion, all but one part in `left_to_others` of what is left of it.
  Range take(Portion& portion, int64_t left_to_others) const;

  const Body& body_;
  const int portions_count_;
  const int64_t smallest_;
  std::array<Portion, max_portions> portions_;
};

class ThreadPool {
 public:
  /// The one pool of the process. Its threads start when they are first needed and live as long as the process.
  static ThreadPool& shared();

  /// Splits [0, items) into ranges and runs them on up to `threads` threads, the caller's among them. Returns when all
  /// are done and rethrows the first exception. A call that finds the pool busy (with one from another thread, or from
  /// within one), or in a forked child, runs on its own thread.
  void parallel_for(int64_t items, int threads, const Body& body);

  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

 private:
  struct Job;

  ThreadPool();
  void start_workers(int count);
  void keep_off_callers_processor();
  void wait_for_jobs(int worker);

  const int process_;      // threads do not survive a fork
  std::atomic_flag busy_;  // serving a call; no mutex, for a call from within a call asks too

  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::condition_variable done_;
  Job* job_ = nullptr;
  std::atomic<uint64_t> jobs_ = 0;  // so far; who looks for a change needs no lock
  std::atomic<int> active_ = 0;     // workers inside the job; likewise
  int sleepers_ = 0;

  // Guarded by busy_.
  std::vector<std::thread> workers_;
  int callers_processor_ = -1;  // that all workers keep off
};

}  // namespace qstep::engine
