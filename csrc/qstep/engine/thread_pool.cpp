#include "qstep/engine/thread_pool.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <system_error>

namespace qstep::engine {
namespace {

// More ranges than threads, so that a thread that lost its core for a while holds up little.
constexpr int64_t ranges_per_thread = 4;

}  // namespace

struct ThreadPool::Job {
  const Body& body;
  const int64_t items;
  const int64_t ranges;
  int helpers_wanted;        // guarded by the pool's mutex
  int helpers = 0;           // likewise
  std::exception_ptr error;  // likewise
  std::atomic<int64_t> next = 0;
};

ThreadPool& ThreadPool::shared() {
  // Never destroyed: at exit the workers sleep, and nothing has to wait for them.
  static ThreadPool& pool = *new ThreadPool;
  return pool;
}

ThreadPool::ThreadPool() : process_(::getpid()) {}

void ThreadPool::parallel_for(int64_t items, int threads, const Body& body) {
  if (items <= 0) return;
  std::unique_lock turn(turn_, std::defer_lock);
  if (threads <= 1 || items == 1 || ::getpid() != process_ || !turn.try_lock()) {
    body({0, items}, 0);
    return;
  }
  Job job{body,
          items,
          std::min(items, threads * ranges_per_thread),
          static_cast<int>(std::min<int64_t>(threads, items)) - 1,
          0,
          {},
          0};
  start_workers(job.helpers_wanted);
  {
    const std::lock_guard lock(mutex_);
    job_ = &job;
  }
  wake_.notify_all();
  std::exception_ptr error;
  try {
    work(job, 0);
  } catch (...) {
    error = std::current_exception();
    job.next = job.ranges;  // nobody starts another range
  }
  std::unique_lock lock(mutex_);
  job_ = nullptr;
  done_.wait(lock, [&] { return active_ == 0; });
  if (!error) error = job.error;
  if (error) std::rethrow_exception(error);
}

void ThreadPool::work(Job& job, int worker) {
  for (int64_t i = job.next++; i < job.ranges; i = job.next++) {
    job.body({i * job.items / job.ranges, (i + 1) * job.items / job.ranges}, worker);
  }
}

void ThreadPool::start_workers(int count) {
  while (static_cast<int>(workers_.size()) < count) {
    try {
      workers_.emplace_back([this] { wait_for_jobs(); });
    } catch (const std::system_error&) {
      return;  // the system gives no more threads: those that exist do the work
    }
  }
}

void ThreadPool::wait_for_jobs() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [&] { return job_ != nullptr && job_->helpers < job_->helpers_wanted; });
    Job& job = *job_;
    const int worker = ++job.helpers;
    ++active_;
    lock.unlock();
    std::exception_ptr error;
    try {
      work(job, worker);
    } catch (...) {
      error = std::current_exception();
      job.next = job.ranges;
    }
    lock.lock();
    if (error && !job.error) job.error = error;
    if (--active_ == 0) done_.notify_all();
  }
}

}  // namespace qstep::engine
