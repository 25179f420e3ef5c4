#include "qstep/engine/thread_pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
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

struct ClearAtEnd {
  std::atomic_flag& flag;
  ~ClearAtEnd() { flag.clear(std::memory_order_release); }
};

}  // namespace

Work::Work(int64_t items, int workers, const Body& body)
    : body_(body),
      portions_count_(std::min(workers, max_portions)),
      smallest_(std::max<int64_t>(1, items / (workers * smallest_ranges_per_thread))) {
  for (int p = 0; p < portions_count_; ++p) {
    portions_[static_cast<size_t>(p)].next = items * p / portions_count_;
    portions_[static_cast<size_t>(p)].end = items * (p + 1) / portions_count_;
  }
}

void Work::run(int worker) {
  for (int p = 0; p < portions_count_; ++p) {
    Portion& portion = portions_[static_cast<size_t>((worker + p) % portions_count_)];
    const int64_t left_to_others = p == 0 ? 8 : 2;
    for (Range range = take(portion, left_to_others); range.begin < range.end; range = take(portion, left_to_others)) {
      body_(range, worker);
    }
  }
}

void Work::stop() {
  for (Portion& portion : portions_) portion.next = portion.end;
}

Range Work::take(Portion& portion, int64_t left_to_others) const {
  int64_t begin = portion.next;
  int64_t end;
  do {
    const int64_t rest = portion.end - begin;
    end = begin + std::min(rest, std::max(smallest_, rest - rest / left_to_others));
  } while (begin < end && !portion.next.compare_exchange_weak(begin, end));
  return {begin, end};
}

struct ThreadPool::Job {
  Work work;
  const int helpers;         // workers 1 to this one
  std::exception_ptr error;  // guarded by the pool's mutex
};

ThreadPool& ThreadPool::shared() {
  // Never destroyed: at exit the workers sleep, and nothing has to wait for them.
  static ThreadPool& pool = *new ThreadPool;
  return pool;
}

ThreadPool::ThreadPool() : process_(::getpid()) {}

void ThreadPool::parallel_for(int64_t items, int threads, const Body& body) {
  if (items <= 0) return;
  if (threads <= 1 || items == 1 || ::getpid() != process_ || busy_.test_and_set(std::memory_order_acquire)) {
    body({0, items}, 0);
    return;
  }
  const ClearAtEnd turn{busy_};
  Job job{Work(items, threads, body), static_cast<int>(std::min<int64_t>(threads, items)) - 1};
  start_workers(job.helpers);
  keep_off_callers_processor();
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
      workers_.emplace_back([this, worker = static_cast<int>(workers_.size()) + 1] { wait_for_jobs(worker); });
      callers_processor_ = -1;
    } catch (const std::system_error&) {
      return;  // the system gives no more threads: those that exist do the work
    }
  }
}

/// Linux often wakes a sleeping worker on the processor of the thread that wakes it, and moves it only after milliseconds,
/// when a run is over. So workers may use every processor that the caller may use but the one it is on.
void ThreadPool::keep_off_callers_processor() {
#if defined(__linux__)
  const int processor = ::sched_getcpu();
  if (processor < 0 || processor == callers_processor_) return;
  cpu_set_t allowed;
  if (::pthread_getaffinity_np(::pthread_self(), sizeof allowed, &allowed) != 0) return;  // more than CPU_SETSIZE
  if (CPU_COUNT(&allowed) > 1) CPU_CLR(processor, &allowed);
  for (std::thread& worker : workers_) ::pthread_setaffinity_np(worker.native_handle(), sizeof allowed, &allowed);
  callers_processor_ = processor;
#endif
}

void ThreadPool::wait_for_jobs(int worker) {
  uint64_t seen = 0;  // the last job looked at
  const auto is_wanted = [&] { return job_ != nullptr && jobs_ != seen && worker <= job_->helpers; };
  std::unique_lock lock(mutex_);
  while (true) {
    if (!is_wanted()) {
      seen = jobs_;
      lock.unlock();
      look_for([&] { return jobs_ != seen; });
      lock.lock();
      ++sleepers_;
      wake_.wait(lock, is_wanted);
      --sleepers_;
    }
    Job& job = *job_;
    seen = jobs_;
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
