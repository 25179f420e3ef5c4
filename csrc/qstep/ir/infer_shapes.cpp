#include <algorithm>
#include <span>
#include <utility>

#include "qstep/ir/graph.h"
#include "qstep/ir/node_checks.h"

namespace qstep::ir {
namespace {

enum class LastWindow { inside, may_overhang };

/// The output shape of one node from the shapes of its inputs.
class ShapeRule {
 public:
  ShapeRule(const Node& node, std::span<const Shape> inputs) : node_(node), inputs_(inputs) {}

  Shape operator()(const Quantize&) const { return input(); }
  Shape operator()(const Lookup&) const { return input(); }
  Shape operator()(const Dequantize&) const { return input(); }

  Shape operator()(const Conv2d& conv) const {
    const int64_t channels = conv.weight.shape[1] * conv.groups;
    expect_image();
    check(input()[1] == channels, "input must have {} channels, got shape {}", channels, to_text(input()));
    return {input()[0], conv.weight.shape[0], window_size(conv.window, 0, LastWindow::inside),
            window_size(conv.window, 1, LastWindow::inside)};
  }

  Shape operator()(const Linear& linear) const {
    check(!input().empty() && input().back() == linear.weight.shape[1],
          "input must have {} as its last size, got shape {}", linear.weight.shape[1], to_text(input()));
    Shape shape = input();
    shape.back() = linear.weight.shape[0];
    return shape;
  }

  Shape operator()(const Bilinear&) const {
    const Shape& left = inputs_[0];
    const Shape& right = inputs_[1];
    bool fits = left.size() == right.size();
    for (size_t i = 0; fits && i < left.size(); ++i) fits = right[i] == left[i] || right[i] == 1;
    check(fits, "the second input must have the sizes of the first or 1, got shapes {} and {}", to_text(left),
          to_text(right));
    return left;
  }

  Shape operator()(const MaxPool2d& pool) const {
    const Shape shape = pooled(pool.window, pool.ceil_mode);
    expect_taps(pool.window, shape);
    return shape;
  }

  Shape operator()(const AvgPool2d& pool) const {
    if (!pool.adaptive) {
      const Shape shape = pooled(pool.window, pool.ceil_mode);
      expect_taps(pool.window, shape);
      return shape;
    }
    expect_image();
    Shape shape = input();
    int64_t taps = 1;  // of the largest window
    for (const int axis : {0, 1}) {
      const int64_t size = input()[2 + axis];
      check(size >= 1, "input must have height and width >= 1, got shape {}", to_text(input()));
      if (pool.output_size[axis] != 0) shape[2 + axis] = pool.output_size[axis];
      check(pool.divisor_override == 0 || size % shape[2 + axis] == 0,
            "divisor_override needs windows of one size, but {} windows share {} rows or columns", shape[2 + axis],
            size);
      taps *= std::min(size, (size - 1) / shape[2 + axis] + 2);
    }
    require_average_in_range(node_, pool, taps);
    return shape;
  }

  Shape operator()(const Concat& op) const {
    Shape shape = input();
    const auto axis = checked_axis(op.axis);
    for (const Shape& other : inputs_.subspan(1)) {
      bool fits = other.size() == shape.size();
      for (size_t i = 0; fits && i < shape.size(); ++i) fits = i == axis || other[i] == shape[i];
      check(fits, "inputs must have equal shapes but for axis {}, got {} and {}", axis, to_text(input()),
            to_text(other));
      shape[axis] += other[axis];
    }
    return shape;
  }

  Shape operator()(const Reshape& op) const {
    Shape shape = op.shape;
    Shape rest = input();  // what the sizes that are not kept have to hold
    int64_t given = 1;
    int64_t* unknown = nullptr;
    for (size_t i = 0; i < shape.size(); ++i) {
      if (shape[i] == 0) {
        check(i < input().size(), "shape {} keeps size {} of an input of shape {}", to_text(op.shape), i,
              to_text(input()));
        shape[i] = std::exchange(rest[i], 1);
      } else if (shape[i] == -1) {
        unknown = &shape[i];
      } else {
        check(shape[i] <= max_elements / given, "shape {} has more than 2^40 elements", to_text(op.shape));
        given *= shape[i];
      }
    }
    const int64_t count = element_count(rest, node_.name);
    if (unknown != nullptr) *unknown = count / given;
    const bool fits = unknown != nullptr ? count % given == 0 : count == given;
    check(fits, "shape {} does not fit an input of shape {}", to_text(op.shape), to_text(input()));
    return shape;
  }

  Shape operator()(const Permute& op) const {
    check(op.order.size() == input().size(), "order has {} dimensions, the input has shape {}", op.order.size(),
          to_text(input()));
    Shape shape;
    for (const int32_t from : op.order) shape.push_back(input()[static_cast<size_t>(from)]);
    return shape;
  }

  Shape operator()(const Slice& op) const {
    Shape shape = input();
    const auto axis = checked_axis(op.axis);
    check(op.stop <= shape[axis], "stop must be at most {}, the input's size along axis {}, got {}", shape[axis], axis,
          op.stop);
    shape[axis] = (op.stop - op.start + op.step - 1) / op.step;
    return shape;
  }

  Shape operator()(const Pad& op) const {
    Shape shape = input();
    check(op.before.size() == shape.size(), "before and after have {} dimensions, the input has shape {}",
          op.before.size(), to_text(shape));
    for (size_t i = 0; i < shape.size(); ++i) shape[i] += op.before[i] + op.after[i];
    return shape;
  }

 private:
  const Shape& input() const { return inputs_[0]; }

  template <class... Args>
  void check(bool condition, fmt::format_string<Args...> message, Args&&... args) const {
    require_at(node_, condition, message, std::forward<Args>(args)...);
  }

  void expect_image() const {
    check(input().size() == 4, "input must have shape [N, C, H, W], got {}", to_text(input()));
  }

  size_t checked_axis(int32_t axis) const {
    const auto position = static_cast<size_t>(axis);
    check(position < input().size(), "axis must be below {}, the number of dimensions, got {}", input().size(), axis);
    return position;
  }

  Shape pooled(const Window& window, bool ceil_mode) const {
    expect_image();
    const auto last = ceil_mode ? LastWindow::may_overhang : LastWindow::inside;
    return {input()[0], input()[1], window_size(window, 0, last), window_size(window, 1, last)};
  }

  // How many windows fit along height (axis 0) or width (axis 1).
  int64_t window_size(const Window& window, int axis, LastWindow last) const {
    const int64_t size = input()[2 + axis];
    int64_t count = core::output_size(window, axis, size);
    check(size >= 1 && count >= 1, "a window of {} along {} does not fit an input of shape {}",
          core::window_extent(window, axis), axis == 0 ? "height" : "width", to_text(input()));
    const int64_t stride = window.stride[axis];
    const int64_t covered = (count - 1) * stride + core::window_extent(window, axis);
    const bool rest = covered < size + window.padding[axis] + window.padding[2 + axis];
    if (last == LastWindow::may_overhang && rest && count * stride < size + window.padding[axis]) ++count;
    return count;
  }

  // Throws unless every window has a tap inside the image: a maximum or mean of nothing has no value.
  void expect_taps(const Window& window, const Shape& shape) const {
    for (const int axis : {0, 1}) {
      const int64_t size = input()[2 + axis];
      const int64_t dilation = window.dilation[axis];
      for (int64_t i = 0; i < shape[2 + axis]; ++i) {
        const int64_t start = i * window.stride[axis] - window.padding[axis];
        const int64_t skipped = start < 0 ? (-start + dilation - 1) / dilation : 0;  // taps before the image
        check(skipped < window.kernel[axis] && start + skipped * dilation < size,
              "window {} along {} lies entirely in the padding of an input of shape {}", i,
              axis == 0 ? "height" : "width", to_text(input()));
      }
    }
  }

  const Node& node_;
  std::span<const Shape> inputs_;
};

}  // namespace

Shape output_shape(const Node& node, std::span<const Shape> input_shapes) {
  Shape shape = std::visit(ShapeRule(node, input_shapes), node.operation);
  element_count(shape, fmt::format("graph: node '{}' ({})", node.name, kind_name(node.operation)));
  return shape;
}

std::vector<Shape> infer_shapes(const Graph& graph, const std::vector<Shape>& input_shapes) {
  require(input_shapes.size() == graph.inputs.size(), "graph: expected the shapes of {} inputs, got {}",
          graph.inputs.size(), input_shapes.size());
  std::vector<Shape> shapes(graph.values.size());
  for (size_t i = 0; i < input_shapes.size(); ++i) {
    const auto id = static_cast<size_t>(graph.inputs[i]);
    element_count(input_shapes[i], fmt::format("graph: input '{}'", graph.values[id].name));
    shapes[id] = input_shapes[i];
  }
  for (const Node& node : graph.nodes) {
    std::vector<Shape> inputs;
    for (const ValueId id : node.inputs) inputs.push_back(shapes[static_cast<size_t>(id)]);
    shapes[static_cast<size_t>(node.output)] = output_shape(node, inputs);
  }
  return shapes;
}

}  // namespace qstep::ir
