// The engine's own machinery: views, placement in the arena, threads.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <ctime>
#include <numeric>
#include <random>
#include <stdexcept>
#include <thread>

#include "qstep/engine/arena.h"
#include "qstep/engine/copy.h"
#include "qstep/engine/thread_pool.h"
#include "qstep/engine/view.h"

namespace qstep::engine {
namespace {

// Offsets of a view's elements in row-major order of its shape.
std::vector<int64_t> offsets(const View& view) {
  std::vector<int64_t> result = {view.offset};
  for (size_t d = 0; d < view.shape.size(); ++d) {
    std::vector<int64_t> next;
    for (const int64_t base : result) {
      for (int64_t i = 0; i < view.shape[d]; ++i) next.push_back(base + i * view.strides[d]);
    }
    result = next;
  }
  return result;
}

TEST(View, ReshapeKeepsTheElementsOrRefuses) {
  std::mt19937_64 random(1);
  const std::vector<std::pair<Shape, Shape>> pairs = {
      {{2, 3, 4, 5}, {2, 60}}, {{2, 3, 4, 5}, {6, 20}},    {{2, 3, 4, 5}, {2, 3, 20}},   {{2, 6, 4}, {2, 2, 3, 4}},
      {{2, 3, 4}, {3, 8}},     {{2, 3, 4, 5}, {3, 2, 20}}, {{1, 6, 1, 1}, {6}},          {{6}, {1, 6, 1, 1}},
      {{1}, {1, 1, 1}},        {{4, 1, 3}, {4, 3, 1, 1}},  {{2, 3, 4, 5}, {5, 4, 3, 2}}, {{2, 3, 2, 2}, {2, 3, 1, 4}},
      {{0, 3}, {0, 1, 3}}};
  int refused = 0;
  for (const auto& [from, to] : pairs) {
    for (int repeat = 0; repeat < 30; ++repeat) {
      View view = dense(0, from, Order::row_major);
      if (from.size() == 4 && repeat % 2 == 0) view = dense(0, from, Order::channels_last);
      if (from[0] > 0 && repeat % 3 == 0) {  // a slice of a wider buffer
        Shape wide = from;
        const size_t axis = random() % wide.size();
        wide[axis] += 2;
        view = sliced(dense(0, wide, Order::row_major), axis, 1, wide[axis] - 1);
      }
      const auto result = reshaped(view, to);
      refused += result ? 0 : 1;
      if (result) {
        ASSERT_EQ(offsets(*result), offsets(view));
        ASSERT_EQ(result->shape, to);
      } else {
        ASSERT_FALSE(is_dense(view, Order::row_major));
      }
    }
  }
  EXPECT_GT(refused, 50);
}

TEST(View, CopiesBetweenAnyLayouts) {
  std::mt19937_64 random(2);
  for (int repeat = 0; repeat < 300; ++repeat) {
    Shape shape;
    for (size_t rank = 1 + random() % 5; rank > 0; --rank) shape.push_back(static_cast<int64_t>(1 + random() % 5));
    if (repeat % 10 == 0) shape = {static_cast<int64_t>(1 + random() % 3), 40000};  // longer than a piece
    const auto random_view = [&](int32_t buffer) {
      std::vector<int32_t> order(shape.size());
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), random);
      Shape stored(shape.size());
      for (size_t i = 0; i < order.size(); ++i) stored[static_cast<size_t>(order[i])] = shape[i];
      const size_t axis = random() % shape.size();
      stored[axis] += 3;
      const View whole = dense(buffer, stored, Order::row_major);
      return permuted(sliced(whole, axis, 2, stored[axis] - 1), order);
    };
    const View from = random_view(0);
    const View to = random_view(1);
    std::vector<int32_t> source(static_cast<size_t>(offsets(from).back() + 1));
    std::iota(source.begin(), source.end(), 1);
    std::vector<int32_t> target(static_cast<size_t>(offsets(to).back() + 1), 0);
    std::byte* buffers[] = {reinterpret_cast<std::byte*>(source.data()), reinterpret_cast<std::byte*>(target.data())};
    const Step step = copy_step(from, to, 4);
    for (int64_t i = step.items; i-- > 0;) step.run({buffers, nullptr}, {i, i + 1}, nullptr);
    std::vector<int32_t> expected(target.size(), 0);
    const auto at = offsets(from);
    const auto put = offsets(to);
    for (size_t i = 0; i < at.size(); ++i) expected[static_cast<size_t>(put[i])] = source[static_cast<size_t>(at[i])];
    ASSERT_EQ(target, expected) << "repeat " << repeat;
  }
}

TEST(Arena, BuffersThatLiveAtOnceNeverOverlap) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    std::mt19937_64 random(seed);
    std::vector<Lifetime> buffers(1 + random() % 40);
    int64_t alive_at_most = 0;
    for (Lifetime& b : buffers) {
      b.bytes = static_cast<int64_t>(random() % 1000);
      b.first = static_cast<int64_t>(random() % 30);
      b.last = b.first + static_cast<int64_t>(random() % 8);
    }
    const int64_t total = place(buffers);
    int64_t sum = 0;
    for (const Lifetime& a : buffers) {
      ASSERT_EQ(a.offset % 64, 0);
      ASSERT_LE(a.offset + a.bytes, total);
      int64_t alive = 0;
      for (const Lifetime& b : buffers) {
        if (b.first <= a.first && a.first <= b.last) alive += (b.bytes + 63) / 64 * 64;
        if (&a == &b || a.last < b.first || b.last < a.first) continue;
        ASSERT_TRUE(a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset) << "seed " << seed;
      }
      alive_at_most = std::max(alive_at_most, alive);
      sum += (a.bytes + 63) / 64 * 64;
    }
    EXPECT_GE(total, alive_at_most);
    EXPECT_LE(total, sum);
    EXPECT_LE(total, alive_at_most * 2) << "seed " << seed;  // placement wastes little
  }
}

TEST(ThreadPool, RunsEveryItemOnceOnDistinctWorkers) {
  for (const int threads : {1, 2, 3, 8}) {
    for (const int64_t items : {0, 1, 2, 5, 100, 1000}) {
      std::vector<std::atomic<int>> seen(static_cast<size_t>(items));
      std::vector<std::atomic<int>> inside(static_cast<size_t>(threads));
      std::atomic<bool> shared = false;
      ThreadPool::shared().parallel_for(items, threads, [&](Range range, int worker) {
        if (inside.at(static_cast<size_t>(worker))++ != 0) shared = true;
        for (int64_t i = range.begin; i < range.end; ++i) ++seen[static_cast<size_t>(i)];
        --inside.at(static_cast<size_t>(worker));
      });
      for (const auto& count : seen) ASSERT_EQ(count, 1);
      EXPECT_FALSE(shared);
    }
  }
}

TEST(ThreadPool, TakesNoProcessorTimeWhileIdle) {
  ThreadPool::shared().parallel_for(64, 4, [](Range, int) {});
  const std::clock_t before = std::clock();  // processor time of all threads
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_LT(std::clock() - before, CLOCKS_PER_SEC / 50);
}

TEST(ThreadPool, PassesExceptionsOnAndGoesOn) {
  for (int repeat = 0; repeat < 50; ++repeat) {
    EXPECT_THROW(ThreadPool::shared().parallel_for(100, 3,
                                                   [&](Range range, int) {
                                                     if (range.begin <= repeat && repeat < range.end)
                                                       throw std::runtime_error("one item");
                                                   }),
                 std::runtime_error);
    std::atomic<int64_t> sum = 0;
    ThreadPool::shared().parallel_for(100, 3, [&](Range range, int) { sum += range.end - range.begin; });
    EXPECT_EQ(sum, 100);
  }
}

TEST(ThreadPool, NestedAndConcurrentCallsFinish) {
  std::atomic<int64_t> sum = 0;
  const auto outer = [&] {
    for (int repeat = 0; repeat < 50; ++repeat) {
      ThreadPool::shared().parallel_for(8, 3, [&](Range range, int) {
        ThreadPool::shared().parallel_for(range.end - range.begin, 3,
                                          [&](Range inner, int) { sum += inner.end - inner.begin; });
      });
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back(outer);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(sum, 4 * 50 * 8);
}

TEST(ThreadPool, WorksInAForkedChild) {
  ThreadPool::shared().parallel_for(10, 2, [](Range, int) {});
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    int64_t sum = 0;
    ThreadPool::shared().parallel_for(10, 2, [&](Range range, int) { sum += range.end - range.begin; });
    ::_exit(sum == 10 ? 0 : 1);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

}  // namespace
}  // namespace qstep::engine
