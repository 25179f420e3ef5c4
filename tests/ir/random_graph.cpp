#include "ir/random_graph.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "qstep/core/error.h"

namespace qstep::test {
namespace {

using namespace qstep::ir;

class Maker {
 public:
  Maker(std::mt19937_64& random, int nodes) : random_(random), nodes_(nodes) {}

  Graph make() {
    graph_.policy = static_cast<RequantPolicy>(below(3));
    add_inputs();
    while (static_cast<int>(graph_.nodes.size()) < nodes_) add_node();
    add_outputs();
    return std::move(graph_);
  }

 private:
  int64_t between(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random_); }
  int64_t below(int64_t count) { return between(0, count - 1); }
  bool chance(double p) { return std::bernoulli_distribution(p)(random_); }
  double real(double low, double high) { return std::uniform_real_distribution<double>(low, high)(random_); }

  bool by_shift() const { return graph_.policy == RequantPolicy::shift; }

  std::string new_name(const char* kind) { return fmt::format("{}{}", kind, graph_.values.size()); }

  Grid random_grid() {
    Grid grid;
    grid.scale = static_cast<float>(std::exp(real(-4, 1)));
    grid.quant_max = (1 << between(1, 8)) - 1;
    if (chance(0.2)) grid.quant_max = static_cast<int32_t>(between(1, 255));
    grid.zero_point = chance(0.3) ? 0 : static_cast<int32_t>(between(0, grid.quant_max));
    if (chance(0.3)) grid.offset = static_cast<float>(real(-3, 3) * grid.scale);
    if (by_shift()) {
      grid.scale = std::ldexp(1.0F, static_cast<int>(between(-6, 1)));
      grid.offset = 0;
    }
    return grid;
  }

  void add_inputs() {
    const int64_t batch = between(1, 2);
    for (int64_t i = 0, count = between(1, 2); i < count; ++i) {
      Value input{.name = new_name("input"), .kind = chance(0.5) ? ValueKind::real : ValueKind::codes};
      if (input.kind == ValueKind::codes) input.grid = random_grid();
      input.shape = {batch, between(1, 9), between(1, 9), between(1, 9)};
      const auto id = static_cast<ValueId>(graph_.values.size());
      graph_.values.push_back(input);
      graph_.inputs.push_back(id);
      if (input.kind == ValueKind::real) append("quantize", Quantize{}, {id}, codes(random_grid()));
    }
  }

  static Value codes(const Grid& grid) { return {.kind = ValueKind::codes, .grid = grid}; }
  const Value& value(ValueId id) const { return graph_.values[static_cast<size_t>(id)]; }

  // A node that its inputs' shapes admit, or nothing.
  bool append(const char* kind, Operation operation, std::vector<ValueId> inputs, Value output) {
    const std::string name = new_name(kind);
    Node node{name, std::move(operation), std::move(inputs), static_cast<ValueId>(graph_.values.size())};
    std::vector<Shape> shapes;
    for (const ValueId id : node.inputs) shapes.push_back(value(id).shape);
    try {
      output.shape = output_shape(node, shapes);
    } catch (const Error&) {
      return false;
    }
    if (element_count(output.shape, name) > 4096) return false;
    output.name = name;
    graph_.values.push_back(std::move(output));
    graph_.nodes.push_back(std::move(node));
    return true;
  }

  ValueId pick_codes(size_t rank = 0) {  // rank 0: any
    std::vector<ValueId> found;
    for (size_t i = 0; i < graph_.values.size(); ++i) {
      const Value& v = graph_.values[i];
      if (v.kind == ValueKind::codes && (rank == 0 || v.shape.size() == rank)) found.push_back(static_cast<ValueId>(i));
    }
    if (found.empty()) return no_value;
    // Recent values more often, so that graphs grow deep.
    const int64_t from = chance(0.7) ? std::max<int64_t>(0, static_cast<int64_t>(found.size()) - 3) : 0;
    return found[static_cast<size_t>(between(from, static_cast<int64_t>(found.size()) - 1))];
  }

  Weight random_weight(Shape shape) {
    Weight weight{.shape = std::move(shape)};
    weight.codes.resize(static_cast<size_t>(element_count(weight.shape, "weight")));
    switch (below(graph_.policy == RequantPolicy::exact ? 8 : 6)) {
      case 0:
        fill_powers_of_two(weight);
        break;
      case 1:
        fill_code_book(weight);
        break;
      case 6:
      case 7:
        fill_piecewise(weight);
        break;
      default:
        fill_uniform(weight);
    }
    return weight;
  }

  void fill_uniform(Weight& weight) {
    weight.bit_width = static_cast<int32_t>(between(2, 8));
    UniformEncoding encoding{.is_signed = chance(0.7)};
    const int64_t low = encoding.is_signed ? -(1 << (weight.bit_width - 1)) : 0;
    const int64_t high = low + (1 << weight.bit_width) - 1;
    if (chance(0.4)) encoding.zero_point = static_cast<int32_t>(between(low, high));
    for (int16_t& code : weight.codes) code = static_cast<int16_t>(between(low, high));
    weight.encoding = encoding;
  }

  void fill_powers_of_two(Weight& weight) {
    weight.bit_width = static_cast<int32_t>(between(2, 5));
    weight.encoding = PowerOfTwoEncoding{.variable_length = chance(0.5)};
    const double zeros = real(0, 1);
    for (int16_t& level : weight.codes) {
      const auto power = static_cast<int16_t>(1 << below(1 << (weight.bit_width - 2)));
      level = chance(zeros) ? int16_t{0} : (chance(0.5) ? power : static_cast<int16_t>(-power));
    }
  }

  void fill_code_book(Weight& weight) {
    weight.bit_width = static_cast<int32_t>(between(1, 8));
    CodeBookEncoding book{.entries = static_cast<int32_t>(between(2, 1 << weight.bit_width))};
    const auto channels = static_cast<size_t>(weight.shape[0]);
    const bool shared = chance(0.5);
    const int64_t gap = chance(0.2) ? 100 : 4;  // levels beyond int8, or mostly within
    for (size_t c = 0; c < (shared ? 1 : channels); ++c) {
      int64_t level = between(-book.entries * gap / 2, 0);
      for (int32_t i = 0; i < book.entries; ++i, level += between(1, gap)) {
        book.levels.push_back(static_cast<int16_t>(level));
      }
    }
    const size_t row = weight.codes.size() / channels;
    for (size_t i = 0; i < weight.codes.size(); ++i) {
      const size_t table = shared ? 0 : i / row * static_cast<size_t>(book.entries);
      weight.codes[i] = book.levels[table + static_cast<size_t>(below(book.entries))];
    }
    weight.encoding = std::move(book);
  }

  // Everything but the constants of the sums, which depend on the grids.
  void fill_piecewise(Weight& weight) {
    weight.bit_width = static_cast<int32_t>(between(2, 8));
    PiecewiseEncoding pieces{.regions = static_cast<int32_t>(between(2, 4)), .has_constant = chance(0.5)};
    for (int16_t& code : weight.codes) {
      code = static_cast<int16_t>(below(int64_t{pieces.regions} << weight.bit_width));
      if (code == 1 << (weight.bit_width - 1)) code = 0;  // a zero of region 0 has no sign
    }
    weight.encoding = std::move(pieces);
  }

  std::vector<int32_t> random_bias(int64_t channels, int64_t depth) {
    std::vector<int32_t> bias(static_cast<size_t>(channels));
    for (int32_t& b : bias) b = static_cast<int32_t>(between(-2000, 2000) * depth);
    return bias;
  }

  std::pair<int32_t, int32_t> random_clamp(const Grid& grid) {
    if (chance(0.5)) return {0, grid.quant_max};
    const auto low = static_cast<int32_t>(between(0, grid.quant_max));
    return {low, static_cast<int32_t>(between(low, grid.quant_max))};
  }

  // Spreads accumulators of the given depth over the output's codes.
  Multiplier random_multiplier(const Weight& weight, int64_t depth, const Grid& in, const Grid& out) {
    const double spread = std::sqrt(static_cast<double>(depth)) * in.quant_max * (1 << weight.bit_width) / 8;
    const double factor = (out.quant_max + 1) / spread * std::exp(real(-1, 1)) * (chance(0.5) ? 1 : -1);
    switch (graph_.policy) {
      case RequantPolicy::gemmlowp:
        return core::gemmlowp_multiplier(factor);
      case RequantPolicy::shift:
        return {1, static_cast<int32_t>(std::clamp(-std::log2(std::fabs(factor)), -8.0, 30.0))};
      case RequantPolicy::exact:
        break;
    }
    return core::exact_multiplier(factor);
  }

  // Multipliers of few or many bits, and of every sign, for accumulators of the given depth.
  void set_sums(PiecewiseEncoding& pieces, const Weight& weight, double steps, double largest_code) {
    const auto channels = static_cast<size_t>(weight.shape[0]);
    const double depth = static_cast<double>(weight.codes.size()) / static_cast<double>(channels);
    const double spread = std::sqrt(depth) * largest_code * (1 << weight.bit_width) / 4;
    pieces.multipliers.resize(static_cast<size_t>(pieces.sums()) * channels);
    for (size_t c = 0; c < channels; ++c) {
      const double factor = steps / spread * std::exp(real(-1, 1));
      const int bits = static_cast<int>(between(10, 30));
      const int shift = std::clamp(bits - static_cast<int>(std::ceil(std::log2(factor))) - 4, 0, 62);
      for (size_t k = 0; k < static_cast<size_t>(pieces.sums()); ++k) {
        const double worth = factor * real(-1, 1) * (k < static_cast<size_t>(pieces.regions) ? 1 : 8);
        pieces.multipliers[k * channels + c] = static_cast<int32_t>(std::ldexp(worth, shift));
      }
      pieces.constants.push_back(static_cast<int64_t>(std::ldexp(real(-1, 1) * steps / 4, shift)));
      pieces.shifts.push_back(static_cast<int8_t>(shift));
    }
  }

  // Requantization and output value of a layer, and what piecewise weights need of both.
  std::pair<Requantize, Value> random_target(Weight& weight, const Grid& in) {
    const int64_t channels = weight.shape[0];
    const int64_t depth = static_cast<int64_t>(weight.codes.size()) / channels;
    auto* pieces = std::get_if<PiecewiseEncoding>(&weight.encoding);
    if (chance(0.15)) {
      Value accumulators{.kind = ValueKind::accumulator};
      for (int64_t c = 0; c < channels; ++c)
        accumulators.scales.push_back(by_shift() ? std::ldexp(1.0, static_cast<int>(between(-9, 0))) : real(-1, 1));
      if (pieces != nullptr) set_sums(*pieces, weight, 1e5, in.quant_max);
      return {Requantize{}, accumulators};
    }
    const Grid grid = random_grid();
    Requantize requantize;
    if (pieces != nullptr) set_sums(*pieces, weight, grid.quant_max + 1, in.quant_max);
    const int64_t count = pieces != nullptr ? 0 : (chance(0.7) ? channels : 1);
    for (int64_t c = 0; c < count; ++c) requantize.multipliers.push_back(random_multiplier(weight, depth, in, grid));
    std::tie(requantize.clamp_min, requantize.clamp_max) = random_clamp(grid);
    return {requantize, codes(grid)};
  }

  Window random_window(bool dilated) {
    Window window;
    for (int axis = 0; axis < 2; ++axis) {
      window.kernel[axis] = static_cast<int32_t>(between(1, 3));
      window.stride[axis] = static_cast<int32_t>(between(1, 2));
      if (dilated && chance(0.3)) window.dilation[axis] = 2;
    }
    for (int side = 0; side < 4; ++side) {
      window.padding[side] = static_cast<int32_t>(below(core::window_extent(window, side % 2)));
    }
    return window;
  }

  void add_node() {
    switch (below(13)) {
      case 0:
      case 1:
        return add_conv2d();
      case 2:
        return add_linear();
      case 3:
      case 4:
        return add_bilinear();
      case 5:
        return add_lookup();
      case 6:
        return add_pool();
      case 7:
        return add_concat();
      case 8:
        return add_reshape();
      case 9:
        return add_permute();
      case 10:
        return add_slice();
      case 11:
        return add_pad();
      default:
        return add_average();
    }
  }

  void add_conv2d() {
    const ValueId x = pick_codes(4);
    if (x == no_value) return;
    const int64_t channels = value(x).shape[1];
    Conv2d conv{.window = random_window(true)};
    std::vector<int64_t> divisors;
    for (int64_t d = 1; d <= channels; ++d) {
      if (channels % d == 0) divisors.push_back(d);
    }
    const int64_t groups = divisors[static_cast<size_t>(below(static_cast<int64_t>(divisors.size())))];
    conv.groups = static_cast<int32_t>(groups);
    const int64_t out = groups * between(1, std::max<int64_t>(1, 20 / groups));
    conv.weight = random_weight({out, channels / groups, conv.window.kernel[0], conv.window.kernel[1]});
    if (!std::holds_alternative<PiecewiseEncoding>(conv.weight.encoding)) {
      conv.bias = random_bias(out, static_cast<int64_t>(conv.weight.codes.size()) / out);
    }
    Value output;
    std::tie(conv.requantize, output) = random_target(conv.weight, value(x).grid);
    append("conv2d", std::move(conv), {x}, std::move(output));
  }

  void add_linear() {
    const ValueId x = pick_codes();
    Linear linear;
    const int64_t out = between(1, 20);
    linear.weight = random_weight({out, value(x).shape.back()});
    if (!std::holds_alternative<PiecewiseEncoding>(linear.weight.encoding)) {
      linear.bias = random_bias(out, value(x).shape.back());
    }
    Value output;
    std::tie(linear.requantize, output) = random_target(linear.weight, value(x).grid);
    append("linear", std::move(linear), {x}, std::move(output));
  }

  void add_bilinear() {
    const ValueId a = pick_codes();
    ValueId b = a;
    for (int attempt = 0; attempt < 8; ++attempt) {  // another value that may be broadcast, where there is one
      const ValueId other = pick_codes(value(a).shape.size());
      bool fits = true;
      for (size_t i = 0; i < value(a).shape.size(); ++i)
        fits = fits && (value(other).shape[i] == value(a).shape[i] || value(other).shape[i] == 1);
      if (fits) b = other;
    }
    Bilinear op;
    const Grid grid = random_grid();
    op.shift = static_cast<int32_t>(between(0, 30));
    const double unit = std::ldexp(1.0, op.shift) * (grid.quant_max + 1);
    if (chance(0.5)) {
      op.operation = Bilinear::Operation::multiply;
      op.product = static_cast<int64_t>(std::clamp(unit / 256 / 256 * real(-1, 1), -0x1p35, 0x1p35));
    }
    op.left = static_cast<int64_t>(unit / 256 * real(-1, 1));
    op.right = static_cast<int64_t>(unit / 256 * real(-1, 1));
    op.constant = static_cast<int64_t>(unit * real(-0.5, 0.5));
    if (by_shift()) {
      op = {.left = int64_t{1} << below(4), .right = int64_t{1} << below(4), .shift = static_cast<int32_t>(below(5))};
    }
    std::tie(op.clamp_min, op.clamp_max) = random_clamp(grid);
    append("bilinear", op, {a, b}, codes(grid));
  }

  void add_lookup() {
    const ValueId x = pick_codes();
    const Grid grid = random_grid();
    Lookup lookup{.function = "random", .table = {}};
    for (int32_t i = 0; i <= value(x).grid.quant_max; ++i)
      lookup.table.push_back(static_cast<uint8_t>(between(0, grid.quant_max)));
    append("lookup", std::move(lookup), {x}, codes(grid));
  }

  void add_pool() {
    const ValueId x = pick_codes(4);
    if (x != no_value) append("max_pool2d", MaxPool2d{random_window(true), chance(0.5)}, {x}, codes(value(x).grid));
  }

  void add_average() {
    const ValueId x = pick_codes(4);
    if (x == no_value) return;
    AvgPool2d pool;
    if (chance(0.5)) {
      pool.adaptive = true;
      for (int32_t& size : pool.output_size) size = static_cast<int32_t>(between(0, 4));
    } else {
      pool.window = random_window(false);
      pool.ceil_mode = chance(0.5);
      pool.count_include_pad = chance(0.5);
    }
    const Grid grid = random_grid();
    pool.shift = static_cast<int32_t>(between(8, 24));
    const double ratio = (grid.quant_max + 1.0) / (value(x).grid.quant_max + 1.0) * real(0.3, 2);
    pool.multiplier = static_cast<int32_t>(std::min(std::ldexp(ratio, pool.shift), 0x1p24 - 1));
    pool.constant = static_cast<int64_t>(std::ldexp(real(-1, 1) * grid.quant_max / 4, pool.shift));
    if (chance(0.3)) {
      pool.divisor_override = static_cast<int32_t>(between(1, 30));
      pool.tap_constant = static_cast<int64_t>(std::ldexp(real(-1, 1) * grid.quant_max / 4, pool.shift));
    }
    if (by_shift()) {
      pool.divisor_override = 1 << below(6);
      pool.multiplier = 1 << below(4);
      pool.shift = static_cast<int32_t>(below(5));
      pool.constant = 0;
      pool.tap_constant = 0;
    }
    std::tie(pool.clamp_min, pool.clamp_max) = random_clamp(grid);
    append("avg_pool2d", pool, {x}, codes(grid));
  }

  void add_concat() {
    const ValueId first = pick_codes();
    std::vector<ValueId> inputs = {first};
    const auto axis = static_cast<int32_t>(below(static_cast<int64_t>(value(first).shape.size())));
    for (size_t i = 0; i < graph_.values.size() && inputs.size() < 3; ++i) {
      const Value& other = graph_.values[i];
      const bool same_grid = other.kind == ValueKind::codes && other.grid == value(first).grid;
      if (same_grid && other.shape.size() == value(first).shape.size() && chance(0.7))
        inputs.push_back(static_cast<ValueId>(i));
    }
    std::shuffle(inputs.begin(), inputs.end(), random_);
    if (!append("concat", Concat{axis}, inputs, codes(value(first).grid))) {
      append("concat", Concat{axis}, {first, first}, codes(value(first).grid));
    }
  }

  void add_reshape() {
    const ValueId x = pick_codes();
    const Shape& shape = value(x).shape;
    Shape to = {0, -1};
    switch (below(4)) {
      case 0:
        if (shape.size() == 4) {  // split the channels or the rows
          const size_t axis = chance(0.5) ? 1 : 2;
          const int64_t parts = shape[axis] % 2 == 0 ? 2 : (shape[axis] % 3 == 0 ? 3 : 1);
          to = shape;
          to[0] = -1;
          to[axis] /= parts;
          to.insert(to.begin() + static_cast<std::ptrdiff_t>(axis), parts);
        }
        break;
      case 1:
        if (shape.size() == 5) to = {-1, shape[1] * shape[2], shape[3], shape[4]};  // merge them again
        break;
      case 2:
        if (shape.size() == 2) to = {0, shape[1], 1, 1};
        if (shape.size() == 2 && shape[1] % 4 == 0) to = {0, shape[1] / 4, 2, 2};
        if (shape.size() == 3) to = {0, 1, shape[1], shape[2]};
        break;
      default:
        break;
    }
    append("reshape", Reshape{to}, {x}, codes(value(x).grid));
  }

  void add_permute() {
    const ValueId x = pick_codes();
    Permute op;
    for (size_t i = 0; i < value(x).shape.size(); ++i) op.order.push_back(static_cast<int32_t>(i));
    // The batch stays in front, as in a network; the rest goes anywhere.
    std::shuffle(op.order.begin() + 1, op.order.end(), random_);
    append("permute", std::move(op), {x}, codes(value(x).grid));
  }

  void add_slice() {
    const ValueId x = pick_codes();
    const Shape& shape = value(x).shape;
    if (shape.size() < 2) return;
    const auto axis = static_cast<int32_t>(between(1, static_cast<int64_t>(shape.size()) - 1));
    const int64_t size = shape[static_cast<size_t>(axis)];
    const int64_t start = below(size);
    const Slice slice{axis, start, between(start + 1, size), chance(0.5) ? 1 : between(1, 4)};
    append("slice", slice, {x}, codes(value(x).grid));
  }

  void add_pad() {
    const ValueId x = pick_codes();
    Pad pad;
    for (size_t axis = 0; axis < value(x).shape.size(); ++axis) {
      pad.before.push_back(chance(0.3) && axis > 0 ? between(1, 3) : 0);
      pad.after.push_back(chance(0.3) && axis > 0 ? between(1, 3) : 0);
    }
    append("pad", std::move(pad), {x}, codes(value(x).grid));
  }

  void add_outputs() {
    std::vector<bool> used(graph_.values.size(), false);
    for (const Node& node : graph_.nodes) {
      for (const ValueId id : node.inputs) used[static_cast<size_t>(id)] = true;
    }
    for (const ValueId id : graph_.inputs) used[static_cast<size_t>(id)] = true;
    for (size_t i = 0; i < used.size(); ++i) {
      if (used[i] && !chance(0.1)) continue;
      auto id = static_cast<ValueId>(i);
      if (std::find(graph_.inputs.begin(), graph_.inputs.end(), id) != graph_.inputs.end()) continue;
      if (chance(0.6)) {
        append("dequantize", Dequantize{}, {id}, {.kind = ValueKind::real});
        id = static_cast<ValueId>(graph_.values.size()) - 1;
      }
      graph_.outputs.push_back(id);
    }
  }

  std::mt19937_64& random_;
  int nodes_;
  Graph graph_;
};

}  // namespace

ir::Graph random_graph(std::mt19937_64& random, int nodes) { return Maker(random, nodes).make(); }

std::vector<ir::Shape> input_shapes(const ir::Graph& graph, int64_t batch) {
  std::vector<ir::Shape> made;
  for (const ir::ValueId id : graph.inputs) made.push_back(graph.values[static_cast<size_t>(id)].shape);
  std::vector<ir::Shape> shapes = made;
  for (ir::Shape& shape : shapes) shape[0] = batch;
  try {
    ir::infer_shapes(graph, shapes);
    return shapes;
  } catch (const Error&) {
    return made;
  }
}

}  // namespace qstep::test
