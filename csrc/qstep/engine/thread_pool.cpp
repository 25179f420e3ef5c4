#include "qstep/engine/thread_pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <system_error>

namespace qstep::engine {
namespace {

// The smallest ranges, at the end of the work: short enough that threads finish at about the same time, long enough for
// the kernels to work on blocks.
constexpr int64_t smallest_ranges_per_thread = 16;

// Between the steps of a run, threads wait for each other for a few microseconds only; to sleep and to wake up takes
// several times that. So they look for this long before they sleep. Between runs all of them sleep.
constexpr auto patience = std::chrono::microseconds(20);

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

/// Looks for something to come true; gives up when patience is at an end.
template <class Condition>
void look_for(Condition&& condition) {
  const auto end = std::chrono::steady_clock::now() + patience;
  do {
    for (int i = 0; i < 16; ++i) {
      if (condition()) return;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
}

}  // namespace

Work::Work(int64_t items, int workers, const Body& body)
    : body_(body),
      items_(items),
      workers_(workers),
      smallest_(std::max<int64_t>(1, items / (workers * smallest_ranges_per_thread))) {}

void Work::run(int worker) {
  for (Range range = take(); range.begin < range.end; range = take()) body_(range, worker);
}

Range Work::take() {
  int64_t begin = next_;
  int64_t end;
  do {
    end = std::min(items_, begin + std::max(smallest_, (items_ - begin) / (2 * workers_)));
  } while (!next_.compare_exchange_weak(begin, std::max(begin, end)));
  return {begin, end};
}

struct ThreadPool::Job {
  Work work;
  int helpers_wanted;        // guarded by the pool's mutex
  int helpers = 0;           // likewise
  std::exception_ptr error;  // likewise
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
  Job job{Work(items, threads, body), static_cast<int>(std::min<int64_t>(threads, items)) - 1};
  start_workers(job.helpers_wanted);
  bool wake;
  {
    const std::lock_guard lock(mutex_);
    job_ = &job;
    ++jobs_;
    wake = sleepers_ > 0;
  }
  if (wake) wake_.notify_all();
  std::exception_ptr error;
  try {
    job.work.run(0);
  } catch (...) {
    error = std::current_exception();
    job.work.stop();
  }
  std::unique_lock lock(mutex_);
  job_ = nullptr;
  if (active_ > 0) {
    lock.unlock();
    look_for([&] { return active_ == 0; });
    lock.lock();
  }
  done_.wait(lock, [&] { return active_ == 0; });
  if (!error) error = job.error;
  if (error) std::rethrow_exception(error);
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
    const auto is_wanted = [&] { return job_ != nullptr && job_->helpers < job_->helpers_wanted; };
    if (!is_wanted()) {
      const uint64_t seen = jobs_;
      lock.unlock();
      look_for([&] { return jobs_ != seen; });
      lock.lock();
      ++sleepers_;
      wake_.wait(lock, is_wanted);
      --sleepers_;
    }
    Job& job = *job_;
    const int worker = ++job.helpers;
    ++active_;
    lock.unlock();
    std::exception_ptr error;
    try {
      job.work.run(worker);
    } catch (...) {
      error = std::current_exception();
      job.work.stop();
    }
    lock.lock();
    if (error && !job.error) job.error = error;
    if (--active_ == 0) done_.notify_all();
  }
}

}  // namespace qstep::engine
