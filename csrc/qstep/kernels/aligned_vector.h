#pragma once
// std::vector whose data starts at a cache line.
#include <cstddef>
#include <new>
#include <vector>

#include "qstep/kernels/layout.h"

namespace qstep::kernels {

template <class T>
struct AlignedAllocator {
  using value_type = T;

  AlignedAllocator() = default;
  template <class U>
  AlignedAllocator(const AlignedAllocator<U>&) {}

  T* allocate(size_t count) {
    return static_cast<T*>(::operator new (count * sizeof(T), std::align_val_t{memory_alignment}));
  }
  void deallocate(T* data, size_t) { ::operator delete (data, std::align_val_t{memory_alignment}); }

  friend bool operator==(const AlignedAllocator&, const AlignedAllocator&) { return true; }
};

template <class T>
using AlignedVector = std::vector<T, AlignedAllocator<T>>;

}  // namespace qstep::kernels
