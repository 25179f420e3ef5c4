#include "qstep/engine/view.h"

#include <algorithm>
#include <numeric>

namespace qstep::engine {
namespace {

// Dimensions from the slowest to the fastest.
std::vector<size_t> memory_order(size_t rank, Order order) {
  std::vector<size_t> dimensions(rank);
  std::iota(dimensions.begin(), dimensions.end(), size_t{0});
  if (order == Order::channels_last) dimensions = {0, 2, 3, 1};
  return dimensions;
}

Strides dense_strides(const Shape& shape, Order order) {
  Strides strides(shape.size());
  const std::vector<size_t> dimensions = memory_order(shape.size(), order);
  int64_t stride = 1;
  for (auto d = dimensions.rbegin(); d != dimensions.rend(); ++d) {
    strides[*d] = stride;
    stride *= std::max<int64_t>(shape[*d], 1);
  }
  return strides;
}

}  // namespace

View dense(int32_t buffer, const Shape& shape, Order order) { return {buffer, 0, shape, dense_strides(shape, order)}; }

bool is_dense(const View& view, Order order) {
  const Strides strides = dense_strides(view.shape, order);
  for (size_t i = 0; i < strides.size(); ++i) {
    if (view.shape[i] > 1 && view.strides[i] != strides[i]) return false;
  }
  return true;
}

View permuted(const View& view, const std::vector<int32_t>& order) {
  View result{view.buffer, view.offset, {}, {}};
  for (const int32_t from : order) {
    result.shape.push_back(view.shape[static_cast<size_t>(from)]);
    result.strides.push_back(view.strides[static_cast<size_t>(from)]);
  }
  return result;
}

View sliced(const View& view, size_t axis, int64_t start, int64_t stop, int64_t step) {
  View result = view;
  result.offset += start * view.strides[axis];
  result.shape[axis] = (stop - start + step - 1) / step;
  result.strides[axis] *= step;
  return result;
}

View broadcast(const View& view, const Shape& shape) {
  View result = view;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (view.shape[i] != shape[i]) result.strides[i] = 0;
  }
  result.shape = shape;
  return result;
}

std::optional<View> reshaped(const View& view, const Shape& shape) {
  View result{view.buffer, view.offset, shape, Strides(shape.size(), 1)};
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return result;  // no elements, no order
  // Both shapes fall into groups of dimensions with equal products. Within a group the old dimensions must be evenly
  // strided.
  size_t from = 0;
  size_t to = 0;
  while (from < view.shape.size() || to < shape.size()) {
    const size_t from_begin = from;
    const size_t to_begin = to;
    int64_t old_count = from < view.shape.size() ? view.shape[from++] : 1;
    int64_t new_count = to < shape.size() ? shape[to++] : 1;
    while (old_count != new_count) {
      if (old_count < new_count) {
        old_count *= view.shape[from++];
      } else {
        new_count *= shape[to++];
      }
    }
    int64_t stride = 1;     // of the group's fastest dimension
    int64_t expected = -1;  // of the next slower one
    for (size_t i = from; i-- > from_begin;) {
      if (view.shape[i] == 1) continue;
      if (expected < 0) {
        stride = view.strides[i];
      } else if (view.strides[i] != expected) {
        return std::nullopt;
      }
      expected = view.strides[i] * view.shape[i];
    }
    for (size_t i = to; i-- > to_begin;) {
      result.strides[i] = stride;
      stride *= shape[i];
    }
  }
  return result;
}

std::optional<kernels::ImageLayout> image_layout(const View& view) {
  if (view.shape.size() != 4 || (view.shape[1] > 1 && view.strides[1] != 1)) return std::nullopt;
  return kernels::ImageLayout{view.shape[0],   view.shape[2],   view.shape[3],  view.shape[1],
                              view.strides[0], view.strides[2], view.strides[3]};
}

Walk walk(const Shape& shape, std::initializer_list<const Strides*> operands) {
  std::vector<size_t> dimensions;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] != 1) dimensions.push_back(i);
  }
  const Strides& leading = **operands.begin();
  std::stable_sort(dimensions.begin(), dimensions.end(), [&](size_t a, size_t b) { return leading[a] > leading[b]; });

  Walk result;
  result.strides.resize(operands.size());
  for (const size_t d : dimensions) {
    bool merges = !result.sizes.empty();
    size_t k = 0;
    for (const Strides* operand : operands) {
      merges = merges && result.strides[k].back() == (*operand)[d] * shape[d];
      ++k;
    }
    k = 0;
    for (const Strides* operand : operands) {
      Strides& strides = result.strides[k++];
      if (merges) {
        strides.back() = (*operand)[d];
      } else {
        strides.push_back((*operand)[d]);
      }
    }
    if (merges) {
      result.sizes.back() *= shape[d];
    } else {
      result.sizes.push_back(shape[d]);
    }
  }
  if (result.sizes.empty()) {  // one element
    result.sizes = {1};
    for (Strides& strides : result.strides) strides = {1};
  }
  return result;
}

}  // namespace qstep::engine
