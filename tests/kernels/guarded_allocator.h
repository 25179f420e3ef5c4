#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <new>

namespace qstep::kernels::test {

/// Memory whose last element ends where a page begins that nobody may access.
template <class T>
struct GuardedAllocator {
  using value_type = T;

  GuardedAllocator() = default;
  template <class U>
  GuardedAllocator(const GuardedAllocator<U>&) {}

  T* allocate(size_t count) {
    const size_t pages = page_bytes(count);
    void* start = ::mmap(nullptr, pages + page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) throw std::bad_alloc();
    std::byte* guard = static_cast<std::byte*>(start) + pages;
    if (::mprotect(guard, page(), PROT_NONE) != 0) throw std::bad_alloc();
    return reinterpret_cast<T*>(guard) - count;
  }
  void deallocate(T* data, size_t count) {
    const size_t pages = page_bytes(count);
    ::munmap(reinterpret_cast<std::byte*>(data + count) - pages, pages + page());
  }

  friend bool operator==(const GuardedAllocator&, const GuardedAllocator&) { return true; }

 private:
  static size_t page() { return static_cast<size_t>(::sysconf(_SC_PAGESIZE)); }
  static size_t page_bytes(size_t count) { return (count * sizeof(T) + page() - 1) / page() * page(); }
};

}  // namespace qstep::kernels::test
