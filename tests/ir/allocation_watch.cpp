#include "ir/allocation_watch.h"

#include <atomic>
#include <cstdlib>
#include <new>

namespace {

std::atomic<size_t> count = 0;
std::atomic<size_t> largest = 0;

void note(size_t size) {
  ++count;
  size_t seen = largest;
  while (size > seen && !largest.compare_exchange_weak(seen, size)) {
  }
}

void* or_throw(void* memory) {
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

qstep::test::AllocationCount qstep::test::take_allocations() { return {count.exchange(0), largest.exchange(0)}; }

void* operator new(size_t size, const std::nothrow_t&) noexcept {
  note(size);
  return std::malloc(size);
}

void* operator new(size_t size) { return or_throw(operator new(size, std::nothrow)); }

void* operator new(size_t size, std::align_val_t alignment) {
  note(size);
  const auto unit = static_cast<size_t>(alignment);
  return or_throw(std::aligned_alloc(unit, (size + unit - 1) / unit * unit));
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
