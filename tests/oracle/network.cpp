#include "oracle/network.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "oracle/requantize.h"
#include "oracle/rounding.h"

namespace qstep::oracle {
namespace {

using namespace qstep::ir;

int64_t count_of(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

Shape index_of(int64_t position, const Shape& shape) {
  Shape index(shape.size());
  for (size_t d = shape.size(); d-- > 0;) {
    index[d] = position % shape[d];
    position /= shape[d];
  }
  return index;
}

int64_t position_of(const Shape& index, const Shape& shape) {
  int64_t position = 0;
  for (size_t d = 0; d < shape.size(); ++d) position = position * shape[d] + index[d];
  return position;
}

int64_t at(const Tensor& tensor, const Shape& index) {
  return tensor.integers[static_cast<size_t>(position_of(index, tensor.shape))];
}

int64_t clamped(Wide x, int64_t low, int64_t high) { return static_cast<int64_t>(std::clamp<Wide>(x, low, high)); }

// The code nearest to real zero, ties to even: real(q) = scale * (q - zero_point) + offset.
int64_t code_of_zero(const Grid& grid) {
  int64_t best = grid.quant_min;
  const double nearest_to_zero =
      static_cast<double>(grid.zero_point) - static_cast<double>(grid.offset) / static_cast<double>(grid.scale);
  for (int64_t q = grid.quant_min; q <= grid.quant_max; ++q) {
    const double distance = std::fabs(static_cast<double>(q) - nearest_to_zero);
    const double best_distance = std::fabs(static_cast<double>(best) - nearest_to_zero);
    const bool even = (q - grid.zero_point) % 2 == 0;
    if (distance < best_distance || (distance == best_distance && even)) best = q;
  }
  return best;
}

class Evaluator {
 public:
  Evaluator(const Graph& graph, std::vector<Tensor>& values) : graph_(graph), values_(values) {}

  void run(const Node& node) {
    node_ = &node;
    inputs_.clear();
    std::vector<Shape> shapes;
    for (const ValueId id : node.inputs) {
      inputs_.push_back(&values_[static_cast<size_t>(id)]);
      shapes.push_back(inputs_.back()->shape);
    }
    Tensor output;
    output.shape = output_shape(node, shapes);
    std::visit([&](const auto& op) { compute(op, output); }, node.operation);
    values_[static_cast<size_t>(node.output)] = std::move(output);
  }

 private:
  const Grid& grid_in(size_t i = 0) const { return graph_.values[static_cast<size_t>(node_->inputs[i])].grid; }
  const Value& value_out() const { return graph_.values[static_cast<size_t>(node_->output)]; }
  const Tensor& x(size_t i = 0) const { return *inputs_[i]; }

  template <class F>
  void each(Tensor& output, F&& f) const {
    for (int64_t i = 0, count = count_of(output.shape); i < count; ++i)
      output.integers.push_back(f(index_of(i, output.shape)));
  }

  void compute(const Quantize&, Tensor& output) const {
    const Grid& grid = value_out().grid;
    for (const float real : x().reals) {
      const float steps = std::nearbyint((real - grid.offset) / grid.scale);
      int64_t code = grid.quant_max;
      if (steps < 1000) code = steps > -1000 ? static_cast<int64_t>(steps) + grid.zero_point : grid.quant_min;
      output.integers.push_back(clamped(code, grid.quant_min, grid.quant_max));
    }
  }

  void compute(const Dequantize&, Tensor& output) const {
    const Value& input = graph_.values[static_cast<size_t>(node_->inputs[0])];
    bool of_conv2d = false;
    for (const Node& node : graph_.nodes)
      of_conv2d = of_conv2d || (node.output == node_->inputs[0] && std::holds_alternative<Conv2d>(node.operation));
    for (size_t i = 0; i < x().integers.size(); ++i) {
      const int64_t q = x().integers[i];
      if (input.kind == ValueKind::codes) {
        const float product = input.grid.scale * static_cast<float>(q - input.grid.zero_point);
        output.reals.push_back(product + input.grid.offset);
      } else {
        const Shape index = index_of(static_cast<int64_t>(i), output.shape);
        const int64_t channel = of_conv2d ? index[1] : index.back();
        output.reals.push_back(static_cast<float>(input.scales[static_cast<size_t>(channel)] * static_cast<double>(q)));
      }
    }
  }

  // What one weight adds for each step of its input's code: an integer or, of piecewise weights, its real value in
  // units of 2^-shift of the result.
  static Wide worth(const Weight& weight, int64_t channel, int64_t position) {
    const int64_t code = weight.codes[static_cast<size_t>(position)];
    if (const auto* uniform = std::get_if<UniformEncoding>(&weight.encoding)) return code - uniform->zero_point;
    const auto* pieces = std::get_if<PiecewiseEncoding>(&weight.encoding);
    if (pieces == nullptr) return code;
    const int64_t halves = int64_t{1} << (weight.bit_width - 1);  // [region][sign][magnitude]
    const int64_t region = code / halves / 2;
    const auto multiplier = [&](int64_t sum) {
      return Wide{pieces->multipliers[static_cast<size_t>(sum * weight.shape[0] + channel)]};
    };
    Wide magnitude = multiplier(region) * (code % halves);
    if (region > 0) magnitude += multiplier(pieces->regions + region - 1);
    const Wide constant = pieces->has_constant ? multiplier(2 * pieces->regions - 1) : 0;
    return constant + (code / halves % 2 == 1 ? -magnitude : magnitude);
  }

  template <class Layer>
  Wide start(const Layer& layer, int64_t channel) const {
    const auto* pieces = std::get_if<PiecewiseEncoding>(&layer.weight.encoding);
    return pieces != nullptr ? pieces->constants[static_cast<size_t>(channel)]
                             : layer.bias[static_cast<size_t>(channel)];
  }

  template <class Layer>
  int64_t finished(const Layer& layer, Wide sum, int64_t channel) const {
    const auto* pieces = std::get_if<PiecewiseEncoding>(&layer.weight.encoding);
    if (pieces == nullptr) return requantized(layer.requantize, sum, channel);
    const Wide steps = nearest_even(sum, power_of_two(pieces->shifts[static_cast<size_t>(channel)]));
    if (value_out().kind == ValueKind::accumulator) return static_cast<int64_t>(steps);
    return clamped(steps + value_out().grid.zero_point, layer.requantize.clamp_min, layer.requantize.clamp_max);
  }

  int64_t requantized(const Requantize& r, Wide accumulator, int64_t channel) const {
    if (r.multipliers.empty()) return static_cast<int64_t>(accumulator);
    const Multiplier m = r.multipliers[r.multipliers.size() == 1 ? 0 : static_cast<size_t>(channel)];
    const Wide steps = requantize(static_cast<int64_t>(accumulator), m, graph_.policy);
    return clamped(steps + value_out().grid.zero_point, r.clamp_min, r.clamp_max);
  }

  void compute(const Conv2d& conv, Tensor& output) const {
    const int64_t zero = code_of_zero(grid_in());
    const Shape& w = conv.weight.shape;
    each(output, [&](const Shape& o) {
      Wide sum = start(conv, o[1]);
      const int64_t first = o[1] / (w[0] / conv.groups) * w[1];  // input channel of the group
      for (int64_t c = 0; c < w[1]; ++c) {
        for (int64_t i = 0; i < w[2]; ++i) {
          for (int64_t j = 0; j < w[3]; ++j) {
            const int64_t y = o[2] * conv.window.stride[0] - conv.window.padding[0] + i * conv.window.dilation[0];
            const int64_t z = o[3] * conv.window.stride[1] - conv.window.padding[1] + j * conv.window.dilation[1];
            const bool inside = y >= 0 && z >= 0 && y < x().shape[2] && z < x().shape[3];
            const int64_t q = inside ? at(x(), {o[0], first + c, y, z}) : zero;
            sum += Wide{q - zero} * worth(conv.weight, o[1], position_of({o[1], c, i, j}, w));
          }
        }
      }
      return finished(conv, sum, o[1]);
    });
  }

  void compute(const Linear& linear, Tensor& output) const {
    const int64_t zero = code_of_zero(grid_in());
    const Shape& w = linear.weight.shape;
    each(output, [&](Shape o) {
      const int64_t channel = o.back();
      Wide sum = start(linear, channel);
      for (int64_t k = 0; k < w[1]; ++k) {
        o.back() = k;
        sum += Wide{at(x(), o) - zero} * worth(linear.weight, channel, channel * w[1] + k);
      }
      return finished(linear, sum, channel);
    });
  }

  void compute(const Bilinear& op, Tensor& output) const {
    const int64_t zero_a = code_of_zero(grid_in(0));
    const int64_t zero_b = code_of_zero(grid_in(1));
    each(output, [&](const Shape& o) {
      Shape other = o;
      for (size_t d = 0; d < o.size(); ++d) other[d] = x(1).shape[d] == 1 ? 0 : o[d];
      const Wide a = at(x(0), o) - zero_a;
      const Wide b = at(x(1), other) - zero_b;
      const Wide t = op.product * a * b + op.left * a + op.right * b + op.constant;
      return clamped(nearest_even(t, power_of_two(op.shift)) + value_out().grid.zero_point, op.clamp_min, op.clamp_max);
    });
  }

  void compute(const Lookup& op, Tensor& output) const {
    for (const int64_t q : x().integers) output.integers.push_back(op.table.at(static_cast<size_t>(q)));
  }

  void compute(const MaxPool2d& pool, Tensor& output) const {
    each(output, [&](const Shape& o) {
      int64_t largest = -1;
      for (int64_t i = 0; i < pool.window.kernel[0]; ++i) {
        for (int64_t j = 0; j < pool.window.kernel[1]; ++j) {
          const int64_t y = o[2] * pool.window.stride[0] - pool.window.padding[0] + i * pool.window.dilation[0];
          const int64_t z = o[3] * pool.window.stride[1] - pool.window.padding[1] + j * pool.window.dilation[1];
          if (y >= 0 && z >= 0 && y < x().shape[2] && z < x().shape[3])
            largest = std::max(largest, at(x(), {o[0], o[1], y, z}));
        }
      }
      return largest;
    });
  }

  // Positions of one window along a dimension, and how many of them count.
  static std::pair<std::vector<int64_t>, int64_t> taps(const AvgPool2d& pool, size_t axis, int64_t i, int64_t in,
                                                       int64_t out) {
    std::vector<int64_t> inside;
    int64_t counted = 0;
    if (pool.adaptive) {
      for (int64_t p = 0; p < in; ++p) {  // floor(i * in / out) <= p < ceil((i + 1) * in / out)
        if (p >= i * in / out && p * out < (i + 1) * in) inside.push_back(p);
      }
      return {inside, static_cast<int64_t>(inside.size())};
    }
    for (int64_t k = 0; k < pool.window.kernel[axis]; ++k) {
      const int64_t p = i * pool.window.stride[axis] - pool.window.padding[axis] + k;
      const bool in_image = p >= 0 && p < in;
      if (in_image) inside.push_back(p);
      if (in_image || (pool.count_include_pad && p < in + pool.window.padding[axis + 2])) ++counted;
    }
    return {inside, counted};
  }

  void compute(const AvgPool2d& pool, Tensor& output) const {
    const int64_t zero = code_of_zero(grid_in());
    each(output, [&](const Shape& o) {
      const auto [rows, row_count] = taps(pool, 0, o[2], x().shape[2], output.shape[2]);
      const auto [columns, column_count] = taps(pool, 1, o[3], x().shape[3], output.shape[3]);
      Wide sum = 0;
      for (const int64_t y : rows) {
        for (const int64_t z : columns)
          sum += Wide{pool.multiplier} * (at(x(), {o[0], o[1], y, z}) - zero) + pool.tap_constant;
      }
      const Wide n = pool.divisor_override != 0 ? Wide{pool.divisor_override} : Wide{row_count} * column_count;
      const Wide steps = nearest_even(sum + n * pool.constant, n * power_of_two(pool.shift));
      return clamped(steps + value_out().grid.zero_point, pool.clamp_min, pool.clamp_max);
    });
  }

  void compute(const Concat& op, Tensor& output) const {
    const auto axis = static_cast<size_t>(op.axis);
    each(output, [&](Shape o) {
      size_t part = 0;
      for (; o[axis] >= x(part).shape[axis]; ++part) o[axis] -= x(part).shape[axis];
      return at(x(part), o);
    });
  }

  void compute(const Reshape&, Tensor& output) const { output.integers = x().integers; }

  void compute(const Permute& op, Tensor& output) const {
    each(output, [&](const Shape& o) {
      Shape from(o.size());
      for (size_t d = 0; d < o.size(); ++d) from[static_cast<size_t>(op.order[d])] = o[d];
      return at(x(), from);
    });
  }

  void compute(const Slice& op, Tensor& output) const {
    each(output, [&](Shape o) {
      int64_t& position = o[static_cast<size_t>(op.axis)];
      position = op.start + position * op.step;
      return at(x(), o);
    });
  }

  void compute(const Pad& op, Tensor& output) const {
    const int64_t zero = code_of_zero(grid_in());
    each(output, [&](Shape o) {
      bool inside = true;
      for (size_t d = 0; d < o.size(); ++d) {
        o[d] -= op.before[d];
        inside = inside && o[d] >= 0 && o[d] < x().shape[d];
      }
      return inside ? at(x(), o) : zero;
    });
  }

  const Graph& graph_;
  std::vector<Tensor>& values_;
  const Node* node_ = nullptr;
  std::vector<const Tensor*> inputs_;
};

}  // namespace

std::vector<Tensor> evaluate(const Graph& graph, const std::vector<Tensor>& inputs) {
  std::vector<Tensor> values(graph.values.size());
  for (size_t i = 0; i < inputs.size(); ++i) values[static_cast<size_t>(graph.inputs[i])] = inputs[i];
  Evaluator evaluator(graph, values);
  for (const Node& node : graph.nodes) evaluator.run(node);
  return values;
}

}  // namespace qstep::oracle
