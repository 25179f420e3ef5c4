#include "qstep/engine/arena.h"

#include <algorithm>
#include <new>
#include <numeric>
#include <vector>

#include "qstep/core/error.h"
#include "qstep/kernels/layout.h"

namespace qstep::engine {
namespace {

constexpr std::align_val_t alignment{kernels::memory_alignment};

int64_t aligned(int64_t bytes) {
  constexpr auto unit = static_cast<int64_t>(kernels::memory_alignment);
  return (bytes + unit - 1) / unit * unit;
}

std::byte* allocate(int64_t bytes) {
  try {
    return static_cast<std::byte*>(::operator new(static_cast<size_t>(std::max<int64_t>(bytes, 1)), alignment));
  } catch (const std::bad_alloc&) {
    fail("run: not enough memory for the {} bytes that inputs of this shape need", bytes);
  }
}

}  // namespace

int64_t place(std::span<Lifetime> buffers) {
  std::vector<size_t> by_size(buffers.size());
  std::iota(by_size.begin(), by_size.end(), size_t{0});
  std::stable_sort(by_size.begin(), by_size.end(),
                   [&](size_t a, size_t b) { return buffers[a].bytes > buffers[b].bytes; });

  int64_t total = 0;
  std::vector<const Lifetime*> placed;  // by offset
  for (const size_t i : by_size) {
    Lifetime& buffer = buffers[i];
    const int64_t bytes = aligned(buffer.bytes);
    int64_t offset = 0;
    for (const Lifetime* other : placed) {
      if (other->last < buffer.first || buffer.last < other->first) continue;
      if (offset + bytes <= other->offset) break;
      offset = std::max(offset, other->offset + aligned(other->bytes));
    }
    buffer.offset = offset;
    total = std::max(total, offset + bytes);
    const auto position = std::upper_bound(placed.begin(), placed.end(), offset,
                                           [](int64_t o, const Lifetime* l) { return o < l->offset; });
    placed.insert(position, &buffer);
  }
  return total;
}

Arena::Arena(int64_t bytes) : bytes_(bytes), data_(allocate(bytes)) {}

void Arena::Free::operator()(std::byte* data) const { ::operator delete(data, alignment); }

}  // namespace qstep::engine
