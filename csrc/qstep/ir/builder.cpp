#include "qstep/ir/builder.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <initializer_list>
#include <numbers>

#include "qstep/core/error.h"
#include "qstep/ir/lowering.h"

namespace qstep::ir {

void check_activation_grid(const std::string& name, const Grid& grid) {
  require(std::isfinite(grid.scale) && grid.scale > 0, "{}: scale must be finite and positive, got {}", name,
          grid.scale);
  require(std::isfinite(grid.offset), "{}: offset must be finite, got {}", name, grid.offset);
  require(grid.quant_min < grid.quant_max && grid.quant_max - grid.quant_min <= 255,
          "{}: an activation grid has between 2 and 256 codes, got [{}, {}]", name, grid.quant_min, grid.quant_max);
}

// The codes between which a fused activation keeps the result. quantize is monotone, so clamping codes equals clamping reals.
std::pair<int32_t, int32_t> clamp_codes(const Target& target, const Grid& grid) {
  return {core::quantize(static_cast<float>(target.clamp_low), grid),
          core::quantize(static_cast<float>(target.clamp_high), grid)};
}

namespace {

// `value` in units of 2^-shift.
int64_t fixed_point(const std::string& name, double value, int32_t shift) {
  const double units = core::round_half_even(std::ldexp(value, shift));
  require(std::fabs(units) < 0x1p62, "{}: a constant of {} output steps does not fit 62 bits", name, value);
  return static_cast<int64_t>(units);
}

// The shift that gives `largest` a 24-bit mantissa.
int32_t common_shift(const std::string& name, double largest) {
  int exponent = 0;
  const double mantissa = std::frexp(largest, &exponent);
  const bool rounds_up = core::round_half_even(std::ldexp(mantissa, 24)) == 0x1p24;
  const int32_t shift = 24 - exponent - (rounds_up ? 1 : 0);
  require(std::isfinite(largest) && shift >= 0, "{}: the ratio of input to output scale must be below 2^24, got {}",
          name, largest);
  return std::min(shift, 62);
}

// log2 of a ratio of scales under the policy shift.
int32_t exponent_of(const std::string& name, double ratio) {
  require(core::is_power_of_two(ratio),
          "{}: under the shift policy the ratio of input to output scale must be a power of two, got {}", name, ratio);
  return std::ilogb(ratio);
}

// Under the policy shift: the least shift that makes integers of these powers of two.
int32_t integer_shift(const std::string& name, std::initializer_list<double> ratios) {
  int32_t least = 0;
  int32_t largest = -62;
  for (const double ratio : ratios) {
    least = std::min(least, exponent_of(name, ratio));
    largest = std::max(largest, exponent_of(name, ratio));
  }
  require(
      least >= -62 && largest - least <= 22,
      "{}: under the shift policy ratios of input to output scale must be at least 2^-62 and at most 2^22 times the "
      "least of them and 1, got {}",
      name, fmt::join(ratios, " and "));
  return -least;
}

}  // namespace

Multiplier multiplier_for(const std::string& name, size_t channel, double factor, RequantPolicy policy) {
  require(std::isfinite(factor) && std::fabs(factor) < 0x1p24,
          "{}: one step of its accumulator must be below 2^24 steps of its output, got {}: did training diverge?", name,
          factor);
  switch (policy) {
    case RequantPolicy::gemmlowp:
      return core::gemmlowp_multiplier(factor);
    case RequantPolicy::shift:
      require(core::is_power_of_two(factor) && factor >= 0x1p-62,
              "{}: under the shift policy one step of its accumulator must be a power of two (at least 2^-62) of steps "
              "of its output, got {} in channel {}",
              name, factor, channel);
      return {1, -std::ilogb(factor)};
    case RequantPolicy::exact:
      break;
  }
  return core::exact_multiplier(factor);
}

double evaluate(const std::string& function, std::span<const double> arguments, double x) {
  const auto expect = [&](size_t count) {
    require(arguments.size() == count, "lookup: {} takes {} arguments, got {}", function, count, arguments.size());
  };
  if (function == "clamp") {
    expect(2);
    return std::clamp(x, arguments[0], arguments[1]);
  }
  if (function == "leaky_relu") {
    expect(1);
    return x >= 0 ? x : arguments[0] * x;
  }
  if (function == "elu") {
    expect(1);
    return x > 0 ? x : arguments[0] * std::expm1(x);
  }
  expect(0);
  if (function == "identity") return x;
  if (function == "relu") return std::max(x, 0.0);
  if (function == "sigmoid") return 1 / (1 + std::exp(-x));
  if (function == "silu") return x / (1 + std::exp(-x));
  if (function == "hardsigmoid") return std::clamp(x + 3, 0.0, 6.0) / 6;
  if (function == "hardswish") return x * std::clamp(x + 3, 0.0, 6.0) / 6;
  if (function == "tanh") return std::tanh(x);
  if (function == "gelu") return x * 0.5 * std::erfc(-x / std::numbers::sqrt2);
  fail(
      "lookup: unknown function '{}'; known are identity, relu, clamp, sigmoid, silu, hardsigmoid, hardswish, tanh, "
      "leaky_relu, gelu, elu",
      function);
}

ValueId Builder::append(const std::string& name, Operation operation, std::vector<ValueId> inputs, Value output) {
  for (const ValueId input : inputs) {
    require(input >= 0 && input < static_cast<ValueId>(graph_.values.size()), "{}: input value {} does not exist", name,
            input);
  }
  output.name = name;
  const auto id = static_cast<ValueId>(graph_.values.size());
  graph_.values.push_back(std::move(output));
  graph_.nodes.push_back({name, std::move(operation), std::move(inputs), id});
  return id;
}

const Value& Builder::codes(const std::string& name, ValueId x) const {
  require(x >= 0 && x < static_cast<ValueId>(graph_.values.size()), "{}: input value {} does not exist", name, x);
  const Value& value = graph_.values[static_cast<size_t>(x)];
  require(value.kind == ValueKind::codes, "{}: its input '{}' must be codes on a grid", name, value.name);
  return value;
}

ValueId Builder::input(const std::string& name, std::vector<int64_t> shape) {
  graph_.values.push_back({.name = name, .kind = ValueKind::real, .grid = {}, .scales = {}, .shape = std::move(shape)});
  graph_.inputs.push_back(static_cast<ValueId>(graph_.values.size()) - 1);
  return graph_.inputs.back();
}

ValueId Builder::input(const std::string& name, std::vector<int64_t> shape, const Grid& grid) {
  check_activation_grid(name, grid);
  const ValueId id = input(name, std::move(shape));
  graph_.values.back().kind = ValueKind::codes;
  graph_.values.back().grid = core::to_unsigned(grid);
  return id;
}

ValueId Builder::quantize(const std::string& name, ValueId x, const Grid& grid) {
  check_activation_grid(name, grid);
  return append(name, Quantize{}, {x}, {.kind = ValueKind::codes, .grid = core::to_unsigned(grid)});
}

ValueId Builder::conv2d(const std::string& name, ValueId x, const Window& window, int32_t groups,
                        const RealWeight& weight, const ChannelAffine& affine, const std::optional<Target>& target) {
  LayerConstants constants = lower_layer(name, codes(name, x), weight, affine, target, graph_.policy);
  return append(name,
                Conv2d{.window = window,
                       .groups = groups,
                       .weight = std::move(constants.weight),
                       .bias = std::move(constants.bias),
                       .requantize = std::move(constants.requantize)},
                {x}, std::move(constants.output));
}

ValueId Builder::linear(const std::string& name, ValueId x, const RealWeight& weight, const ChannelAffine& affine,
                        const std::optional<Target>& target) {
  LayerConstants constants = lower_layer(name, codes(name, x), weight, affine, target, graph_.policy);
  return append(name,
                Linear{.weight = std::move(constants.weight),
                       .bias = std::move(constants.bias),
                       .requantize = std::move(constants.requantize)},
                {x}, std::move(constants.output));
}

ValueId Builder::bilinear(const std::string& name, ValueId left, ValueId right, Bilinear node, const Target& target,
                          double left_factor, double right_factor) {
  check_activation_grid(name, target.grid);
  require(std::isfinite(left_factor) && std::isfinite(right_factor), "{}: factors must be finite, got {} and {}", name,
          left_factor, right_factor);
  const Grid a = codes(name, left).grid;
  const Grid b = codes(name, right).grid;
  const Grid grid = core::to_unsigned(target.grid);
  const double step = grid.scale;
  const double scale_a = static_cast<double>(a.scale) * left_factor;
  const double scale_b = static_cast<double>(b.scale) * right_factor;
  const double residual_a = core::residual(a) * left_factor;
  const double residual_b = core::residual(b) * right_factor;
  const bool add = node.operation == Bilinear::Operation::add;
  const bool by_shift = graph_.policy == RequantPolicy::shift;
  require(add || !by_shift, "{}: a product of two tensors is not defined under the shift policy", name);
  // (s_a c_a + v_a) op (s_b c_b + v_b) - offset, in steps of the output grid
  const double product = add ? 0.0 : scale_a * scale_b / step;
  const double by_left = scale_a * (add ? 1.0 : residual_b) / step;
  const double by_right = scale_b * (add ? 1.0 : residual_a) / step;
  const double constant =
      ((add ? residual_a + residual_b : residual_a * residual_b) - static_cast<double>(grid.offset)) / step;

  node.shift = by_shift ? integer_shift(name, {by_left, by_right})
                        : common_shift(name, std::max({std::fabs(product), std::fabs(by_left), std::fabs(by_right)}));
  node.product = fixed_point(name, product, node.shift);
  node.left = fixed_point(name, by_left, node.shift);
  node.right = fixed_point(name, by_right, node.shift);
  node.constant = fixed_point(name, constant, node.shift);
  std::tie(node.clamp_min, node.clamp_max) = clamp_codes(target, grid);
  return append(name, node, {left, right}, {.kind = ValueKind::codes, .grid = grid});
}

ValueId Builder::add(const std::string& name, ValueId left, ValueId right, const Target& target, double left_factor,
                     double right_factor) {
  return bilinear(name, left, right, {.operation = Bilinear::Operation::add}, target, left_factor, right_factor);
}

ValueId Builder::multiply(const std::string& name, ValueId left, ValueId right, const Target& target) {
  return bilinear(name, left, right, {.operation = Bilinear::Operation::multiply}, target, 1.0, 1.0);
}

ValueId Builder::lookup(const std::string& name, ValueId x, const std::string& function,
                        std::span<const double> arguments, const Grid& grid) {
  check_activation_grid(name, grid);
  const Grid from = codes(name, x).grid;
  const Grid to = core::to_unsigned(grid);
  Lookup node{.function = function, .table = {}};
  for (int32_t code = 0; code <= from.quant_max; ++code) {
    const double value = evaluate(function, arguments, static_cast<double>(core::dequantize(code, from)));
    node.table.push_back(static_cast<uint8_t>(core::quantize(static_cast<float>(value), to)));
  }
  return append(name, std::move(node), {x}, {.kind = ValueKind::codes, .grid = to});
}

ValueId Builder::max_pool2d(const std::string& name, ValueId x, const Window& window, bool ceil_mode) {
  const Grid grid = codes(name, x).grid;
  return append(name, MaxPool2d{window, ceil_mode}, {x}, {.kind = ValueKind::codes, .grid = grid});
}

ValueId Builder::average(const std::string& name, ValueId x, AvgPool2d pool, const Target& target, double factor) {
  check_activation_grid(name, target.grid);
  require(std::isfinite(factor), "{}: factor must be finite, got {}", name, factor);
  require(pool.divisor_override >= 0, "{}: divisor_override must be positive, or 0 for none, got {}", name,
          pool.divisor_override);
  const Grid from = codes(name, x).grid;
  const Grid to = core::to_unsigned(target.grid);
  const double step = to.scale;
  const double ratio = static_cast<double>(from.scale) * factor / step;
  const double residual = core::residual(from) * factor;
  const auto offset = static_cast<double>(to.offset);
  if (graph_.policy == RequantPolicy::shift) {
    pool.shift = integer_shift(name, {ratio});
    const Window& w = pool.window;
    const bool always_full =
        !pool.adaptive && !pool.ceil_mode && (pool.count_include_pad || std::ranges::count(w.padding, 0) == 4);
    if (pool.divisor_override == 0 && always_full) pool.divisor_override = w.kernel[0] * w.kernel[1];
    require(
        pool.divisor_override > 0 && std::has_single_bit(static_cast<uint32_t>(pool.divisor_override)),
        "{}: under the shift policy a sum is divided by a power of two: give it as divisor_override, and what is left "
        "as factor to what follows; got {}",
        name, pool.divisor_override);
  } else {
    pool.shift = common_shift(name, std::fabs(ratio));
  }
  pool.multiplier = static_cast<int32_t>(fixed_point(name, ratio, pool.shift));
  if (pool.divisor_override == 0) {
    pool.constant = fixed_point(name, (residual - offset) / step, pool.shift);
  } else {
    pool.constant = fixed_point(name, -offset / step, pool.shift);
    pool.tap_constant = fixed_point(name, residual / step, pool.shift);
  }
  std::tie(pool.clamp_min, pool.clamp_max) = clamp_codes(target, to);
  return append(name, pool, {x}, {.kind = ValueKind::codes, .grid = to});
}

ValueId Builder::avg_pool2d(const std::string& name, ValueId x, const Window& window, bool ceil_mode,
                            bool count_include_pad, const Target& target, double factor, int32_t divisor_override) {
  return average(name, x,
                 {.window = window,
                  .ceil_mode = ceil_mode,
                  .count_include_pad = count_include_pad,
                  .divisor_override = divisor_override},
                 target, factor);
}

ValueId Builder::adaptive_avg_pool2d(const std::string& name, ValueId x, int32_t height, int32_t width,
                                     const Target& target, double factor, int32_t divisor_override) {
  return average(name, x, {.adaptive = true, .output_size = {height, width}, .divisor_override = divisor_override},
                 target, factor);
}

ValueId Builder::concat(const std::string& name, std::span<const ValueId> inputs, int32_t axis, const Grid& grid) {
  check_activation_grid(name, grid);
  const Grid to = core::to_unsigned(grid);
  std::vector<ValueId> aligned;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const bool same = codes(name, inputs[i]).grid == to;
    aligned.push_back(same ? inputs[i] : lookup(fmt::format("{}.input{}", name, i), inputs[i], "identity", {}, to));
  }
  return append(name, Concat{axis}, std::move(aligned), {.kind = ValueKind::codes, .grid = to});
}

ValueId Builder::reshape(const std::string& name, ValueId x, std::vector<int64_t> shape) {
  const Grid grid = codes(name, x).grid;
  return append(name, Reshape{std::move(shape)}, {x}, {.kind = ValueKind::codes, .grid = grid});
}

ValueId Builder::permute(const std::string& name, ValueId x, std::vector<int32_t> order) {
  const Grid grid = codes(name, x).grid;
  return append(name, Permute{std::move(order)}, {x}, {.kind = ValueKind::codes, .grid = grid});
}

ValueId Builder::slice(const std::string& name, ValueId x, int32_t axis, int64_t start, int64_t stop, int64_t step) {
  const Grid grid = codes(name, x).grid;
  return append(name, Slice{axis, start, stop, step}, {x}, {.kind = ValueKind::codes, .grid = grid});
}

ValueId Builder::pad(const std::string& name, ValueId x, std::vector<int64_t> before, std::vector<int64_t> after) {
  const Grid grid = codes(name, x).grid;
  return append(name, Pad{std::move(before), std::move(after)}, {x}, {.kind = ValueKind::codes, .grid = grid});
}

ValueId Builder::dequantize(const std::string& name, ValueId x) {
  return append(name, Dequantize{}, {x}, {.kind = ValueKind::real});
}

void Builder::output(ValueId x) {
  require(x >= 0 && x < static_cast<ValueId>(graph_.values.size()), "output: value {} does not exist", x);
  graph_.outputs.push_back(x);
}

Graph Builder::finish() const {
  Graph graph = graph_;
  validate(graph);
  std::vector<Shape> shapes;
  for (const ValueId input : graph.inputs) shapes.push_back(graph.values[static_cast<size_t>(input)].shape);
  shapes = infer_shapes(graph, shapes);
  for (size_t i = 0; i < shapes.size(); ++i) graph.values[i].shape = shapes[i];
  return graph;
}

}  // namespace qstep::ir
