#include "qstep/engine/arena.h"

#include <algorithm>
#include <functional>
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

// Each buffer at the lowest offset that is free, one after the other. Returns the bytes needed in all.
int64_t place_in_order(std::span<Lifetime> buffers, std::span<const size_t> order) {
  int64_t total = 0;
  std::vector<const Lifetime*> placed;  // by offset
  for (const size_t i : order) {
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

}  // namespace

int64_t largest_live_bytes(std::span<const Lifetime> buffers) {
  int64_t largest = 0;
  for (const Lifetime& now : buffers) {  // the sum grows only where a buffer begins
    int64_t sum = 0;
    for (const Lifetime& other : buffers) {
      if (other.first <= now.first && now.first <= other.last) sum += aligned(other.bytes);
    }
    largest = std::max(largest, sum);
  }
  return largest;
}

int64_t place(std::span<Lifetime> buffers) {
  const int64_t bound = largest_live_bytes(buffers);
  std::vector<size_t> order(buffers.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, std::greater(), [&](size_t i) { return buffers[i].bytes; });
  int64_t best = place_in_order(buffers, order);
  std::vector<Lifetime> best_buffers(buffers.begin(), buffers.end());
  for (int tries = 0; tries < 32 && best > bound; ++tries) {
    // What ends last was placed too late.
    const auto last =
        std::ranges::max_element(order, {}, [&](size_t i) { return buffers[i].offset + aligned(buffers[i].bytes); });
    std::rotate(order.begin(), last, last + 1);
    const int64_t total = place_in_order(buffers, order);
    if (total >= best) continue;
    best = total;
    best_buffers.assign(buffers.begin(), buffers.end());
  }
  std::ranges::copy(best_buffers, buffers.begin());
  return best;
}

Arena::Arena(int64_t bytes) : bytes_(bytes), data_(allocate(bytes)) {}

void Arena::Free::operator()(std::byte* data) const { ::operator delete(data, alignment); }

}  // namespace qstep::engine
