#pragma once
// A value in memory: a buffer, and a stride for each of its logical dimensions. Permuting, slicing and most reshaping
// make another view of the same buffer.
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <vector>

#include "qstep/ir/graph.h"
#include "qstep/kernels/layout.h"

namespace qstep::engine {

using ir::Shape;
using Strides = std::vector<int64_t>;

enum class Order : uint8_t {
  row_major,      ///< the last dimension is contiguous
  channels_last,  ///< four dimensions [N, C, H, W] stored as NHWC
};

/// How a value of this rank usually lies.
constexpr Order usual_order(size_t rank) { return rank == 4 ? Order::channels_last : Order::row_major; }

struct View {
  int32_t buffer = -1;
  int64_t offset = 0;  ///< in elements, as the strides
  Shape shape;
  Strides strides;

  friend bool operator==(const View&, const View&) = default;
};

/// A whole buffer.
View dense(int32_t buffer, const Shape& shape, Order order);

/// True where the view's elements follow each other in this order, without gap.
bool is_dense(const View& view, Order order);

View permuted(const View& view, const std::vector<int32_t>& order);
View sliced(const View& view, size_t axis, int64_t start, int64_t stop, int64_t step = 1);
/// Dimensions of size 1 repeat: stride 0.
View broadcast(const View& view, const Shape& shape);
/// The same elements, in row-major order of `shape`; nothing where that takes a copy.
std::optional<View> reshaped(const View& view, const Shape& shape);

/// The view [N, C, H, W] as the kernels of images see it; nothing where the channels of a pixel are not contiguous.
std::optional<kernels::ImageLayout> image_layout(const View& view);

/// Operands of one shape walked together: dimensions of size 1 dropped, the rest sorted by the strides of the first
/// operand and merged wherever all operands allow it.
struct Walk {
  Shape sizes;                   ///< outermost first; at least one dimension
  std::vector<Strides> strides;  ///< by operand, by dimension
};

Walk walk(const Shape& shape, std::initializer_list<const Strides*> operands);

}  // namespace qstep::engine
