#pragma once
// Worker threads that sleep until there is work: they never spin, so idle workers cost nothing and busy machines stay
// fair.
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "qstep/kernels/layout.h"

namespace qstep::engine {

using kernels::Range;

class ThreadPool {
 public:
  /// Runs some items on worker `worker` (0 is the caller, others count up to threads - 1).
  using Body = std::function<void(Range items, int worker)>;

  /// The one pool of the process. Its threads start when they are first needed and live as long as the process.
  static ThreadPool& shared();

  /// Splits [0, items) into ranges and runs them on up to `threads` threads, the caller's among them. Returns when all
  /// are done and rethrows the first exception. A call that finds the pool busy (from another thread), or in a forked
  /// child, runs on its own thread.
  void parallel_for(int64_t items, int threads, const Body& body);

  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

 private:
  struct Job;

  ThreadPool();
  void start_workers(int count);
  void wait_for_jobs();
  static void work(Job& job, int worker);

  const int process_;  // threads do not survive a fork
  std::mutex turn_;    // held by the call that the workers serve

  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::condition_variable done_;
  Job* job_ = nullptr;
  int active_ = 0;  // workers inside the job
  std::vector<std::thread> workers_;
};

}  // namespace qstep::engine
