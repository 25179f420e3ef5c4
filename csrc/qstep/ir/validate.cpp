#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <span>
#include <unordered_set>

#include "qstep/ir/graph.h"
#include "qstep/ir/node_checks.h"
#include "qstep/ir/weight.h"

namespace qstep::ir {
namespace {

constexpr size_t longest_name = 1024;

// max |q - zero_code| over the codes of the grid.
int64_t largest_centred_code(const Grid& grid) {
  const int32_t zero = core::zero_code(grid);
  return std::max(zero - grid.quant_min, grid.quant_max - zero);
}

void check_value(const Value& value, RequantPolicy policy) {
  require(!value.name.empty() && value.name.size() <= longest_name,
          "graph: a value's name must have 1 to {} bytes, got {}", longest_name, value.name.size());
  const auto check = [&](bool condition, const char* rule, auto found) {
    require(condition, "graph: value '{}': {}, got {}", value.name, rule, found);
  };
  element_count(value.shape, fmt::format("graph: value '{}': shape", value.name));
  switch (value.kind) {
    case ValueKind::real:
      break;
    case ValueKind::codes: {
      const Grid& grid = value.grid;
      check(std::isfinite(grid.scale) && grid.scale > 0, "scale must be finite and positive", grid.scale);
      check(std::isfinite(grid.offset), "offset must be finite", grid.offset);
      check(grid.quant_min == 0, "quant_min must be 0", grid.quant_min);
      check(grid.quant_max >= 1 && grid.quant_max <= 255, "quant_max must be in [1, 255]", grid.quant_max);
      check(grid.zero_point >= 0 && grid.zero_point <= grid.quant_max, "zero_point must be in [0, quant_max]",
            grid.zero_point);
      if (policy == RequantPolicy::shift) {
        check(core::is_power_of_two(grid.scale), "scale must be a power of two under the shift policy", grid.scale);
        check(grid.offset == 0, "offset must be 0 under the shift policy", grid.offset);
      }
      break;
    }
    case ValueKind::accumulator:
      for (const double scale : value.scales) check(std::isfinite(scale), "scales must be finite", scale);
      break;
    default:
      check(false, "kind must be real, codes or accumulator", static_cast<int>(value.kind));
  }
  check(value.kind == ValueKind::accumulator || value.scales.empty(), "scales belong to accumulators only",
        value.scales.size());
}

/// The invariants of one node whose inputs and output exist.
class NodeValidator {
 public:
  NodeValidator(const Graph& graph, const Node& node) : graph_(graph), node_(node) {}

  void operator()(const Quantize&) const {
    expect_inputs(1);
    expect_kind("input", input(0), ValueKind::real);
    expect_kind("output", output(), ValueKind::codes);
  }

  void operator()(const Conv2d& conv) const {
    expect_codes_in(1);
    check_window(conv.window);
    check_weight(conv.weight, 4);
    for (size_t axis : {0, 1}) {
      check(conv.weight.shape[2 + axis] == conv.window.kernel[axis], "window.kernel must equal weight.shape {}, got {}",
            conv.weight.shape[2 + axis], conv.window.kernel[axis]);
    }
    expect_range("groups", conv.groups, 1, conv.weight.shape[0]);
    check(conv.weight.shape[0] % conv.groups == 0, "groups must divide the {} output channels, got {}",
          conv.weight.shape[0], conv.groups);
    check_accumulation(conv.weight, conv.bias, conv.requantize);
  }

  void operator()(const Linear& linear) const {
    expect_codes_in(1);
    check_weight(linear.weight, 2);
    check_accumulation(linear.weight, linear.bias, linear.requantize);
  }

  void operator()(const Bilinear& op) const {
    expect_codes_in(2);
    expect_kind("output", output(), ValueKind::codes);
    expect_member("operation", static_cast<int>(op.operation), 2);
    check(op.operation == Bilinear::Operation::multiply || op.product == 0, "product must be 0 for an addition, got {}",
          op.product);
    expect_below("product", op.product, 36);
    expect_below("left", op.left, 46);
    expect_below("right", op.right, 46);
    expect_below("constant", op.constant, 53);
    const int64_t a = largest_centred_code(input(0).grid);
    const int64_t b = largest_centred_code(input(1).grid);
    const int64_t bound =
        std::abs(op.product) * a * b + std::abs(op.left) * a + std::abs(op.right) * b + std::abs(op.constant);
    check(bound < int64_t{1} << 53, "product, left, right and constant must keep the sum below 2^53, got {}", bound);
    expect_range("shift", op.shift, 0, 62);
    check_clamp(op.clamp_min, op.clamp_max);
    if (!by_shift()) return;
    check(op.operation == Bilinear::Operation::add, "operation must be add under the shift policy, got {}", "multiply");
    expect_power_of_two("left", op.left, 22);
    expect_power_of_two("right", op.right, 22);
    expect_0_by_shift("constant", op.constant);
  }

  void operator()(const Lookup& op) const {
    expect_codes_in(1);
    expect_kind("output", output(), ValueKind::codes);
    check(op.function.size() <= longest_name, "function must have at most {} bytes, got {}", longest_name,
          op.function.size());
    const auto entries = static_cast<size_t>(input(0).grid.quant_max) + 1;
    check(op.table.size() == entries, "table must have {} entries, one per input code, got {}", entries,
          op.table.size());
    for (const uint8_t code : op.table) expect_range("table", code, 0, output().grid.quant_max);
  }

  void operator()(const MaxPool2d& pool) const {
    expect_codes_in(1);
    expect_same_grid();
    check_pool_window(pool.window);
  }

  void operator()(const AvgPool2d& pool) const {
    expect_codes_in(1);
    expect_kind("output", output(), ValueKind::codes);
    expect_below("multiplier", pool.multiplier, 24);
    expect_range("shift", pool.shift, 0, 62);
    check_clamp(pool.clamp_min, pool.clamp_max);
    expect_range("divisor_override", pool.divisor_override, 0, INT32_MAX);
    check(pool.divisor_override > 0 || pool.tap_constant == 0,
          "tap_constant must be 0 without divisor_override, got {}", pool.tap_constant);
    if (by_shift()) {
      expect_power_of_two("multiplier", pool.multiplier, 22);
      expect_power_of_two("divisor_override", pool.divisor_override, 30);
      expect_0_by_shift("constant", pool.constant);
      expect_0_by_shift("tap_constant", pool.tap_constant);
    }
    if (pool.adaptive) {
      for (const int32_t size : pool.output_size) expect_range("output_size", size, 0, max_window);
    } else {
      check_pool_window(pool.window);
      for (const int32_t dilation : pool.window.dilation) expect_range("window.dilation", dilation, 1, 1);
      require_average_in_range(node_, pool, int64_t{pool.window.kernel[0]} * pool.window.kernel[1]);
    }
  }

  void operator()(const Concat& op) const {
    check(!node_.inputs.empty(), "inputs must not be empty, got {}", 0);
    expect_codes_in(node_.inputs.size());
    expect_same_grid();
    expect_range("axis", op.axis, 0, max_rank - 1);
  }

  void operator()(const Reshape& op) const {
    expect_codes_in(1);
    expect_same_grid();
    check(!op.shape.empty() && op.shape.size() <= max_rank, "shape must have 1 to {} dimensions, got {}", max_rank,
          op.shape.size());
    for (const int64_t size : op.shape) expect_range("shape", size, -1, max_elements);
    const auto unknown = std::count(op.shape.begin(), op.shape.end(), -1);
    check(unknown <= 1, "shape may have one -1, got {}", to_text(op.shape));
  }

  void operator()(const Permute& op) const {
    expect_codes_in(1);
    expect_same_grid();
    check(!op.order.empty() && op.order.size() <= max_rank, "order must have 1 to {} dimensions, got {}", max_rank,
          op.order.size());
    std::vector<int32_t> sorted = op.order;
    std::sort(sorted.begin(), sorted.end());
    for (size_t i = 0; i < sorted.size(); ++i) {
      check(sorted[i] == static_cast<int32_t>(i), "order must name each dimension once, got [{}]",
            fmt::join(op.order, ", "));
    }
  }

  void operator()(const Slice& op) const {
    expect_codes_in(1);
    expect_same_grid();
    expect_range("axis", op.axis, 0, max_rank - 1);
    expect_range("start", op.start, 0, max_elements);
    check(op.stop > op.start && op.stop <= max_elements, "stop must be in ({}, {}], got {}", op.start, max_elements,
          op.stop);
    expect_range("step", op.step, 1, max_elements);
  }

  void operator()(const Pad& op) const {
    expect_codes_in(1);
    expect_same_grid();
    check(!op.before.empty() && op.before.size() <= max_rank && op.before.size() == op.after.size(),
          "before and after must have 1 to {} dimensions, as many each, got {} and {}", max_rank, op.before.size(),
          op.after.size());
    for (const int64_t size : op.before) expect_range("before", size, 0, max_elements);
    for (const int64_t size : op.after) expect_range("after", size, 0, max_elements);
  }

  void operator()(const Dequantize&) const {
    expect_inputs(1);
    check(input(0).kind != ValueKind::real, "input '{}' must be codes or accumulators, got real", input(0).name);
    expect_kind("output", output(), ValueKind::real);
  }

 private:
  const Value& input(size_t i) const { return graph_.values[static_cast<size_t>(node_.inputs[i])]; }
  const Value& output() const { return graph_.values[static_cast<size_t>(node_.output)]; }

  template <class... Args>
  void check(bool condition, fmt::format_string<Args...> message, Args&&... args) const {
    require_at(node_, condition, message, std::forward<Args>(args)...);
  }

  void expect_range(const char* field, int64_t found, int64_t low, int64_t high) const {
    check(found >= low && found <= high, "{} must be in [{}, {}], got {}", field, low, high, found);
  }

  void expect_below(const char* field, int64_t found, int bits) const {
    const int64_t limit = int64_t{1} << bits;
    check(found > -limit && found < limit, "|{}| must be below 2^{}, got {}", field, bits, found);
  }

  bool by_shift() const { return graph_.policy == RequantPolicy::shift; }

  void expect_power_of_two(const char* field, int64_t found, int largest) const {
    check(found > 0 && std::has_single_bit(static_cast<uint64_t>(found)) && found <= int64_t{1} << largest,
          "{} must be a power of two, at most 2^{}, under the shift policy, got {}", field, largest, found);
  }

  void expect_0_by_shift(const char* field, int64_t found) const {
    check(found == 0, "{} must be 0 under the shift policy, got {}", field, found);
  }

  void expect_member(const char* field, int found, int members) const {
    check(found >= 0 && found < members, "{} must name one of {} members, got {}", field, members, found);
  }

  void expect_inputs(size_t count) const {
    check(node_.inputs.size() == count, "inputs must be {} values, got {}", count, node_.inputs.size());
  }

  void expect_kind(const char* field, const Value& value, ValueKind kind) const {
    static constexpr const char* names[] = {"real", "codes", "accumulators"};
    check(value.kind == kind, "{} '{}' must be {}, got {}", field, value.name, names[static_cast<int>(kind)],
          names[static_cast<int>(value.kind)]);
  }

  void expect_codes_in(size_t count) const {
    expect_inputs(count);
    for (size_t i = 0; i < count; ++i) expect_kind("input", input(i), ValueKind::codes);
  }

  void expect_same_grid() const {
    expect_kind("output", output(), ValueKind::codes);
    for (size_t i = 0; i < node_.inputs.size(); ++i) {
      check(input(i).grid == output().grid, "input '{}' must be on the grid of the output, got another", input(i).name);
    }
  }

  void check_clamp(int32_t clamp_min, int32_t clamp_max) const {
    expect_range("clamp_max", clamp_max, 0, output().grid.quant_max);
    expect_range("clamp_min", clamp_min, 0, clamp_max);
  }

  void check_window(const Window& window) const {
    for (const int32_t size : window.kernel) expect_range("window.kernel", size, 1, max_window);
    for (const int32_t size : window.stride) expect_range("window.stride", size, 1, max_window);
    for (const int32_t size : window.padding) expect_range("window.padding", size, 0, max_window);
    for (const int32_t size : window.dilation) expect_range("window.dilation", size, 1, max_window);
  }

  void check_pool_window(const Window& window) const {
    check_window(window);
    for (int side = 0; side < 4; ++side) {
      const int axis = side % 2;
      expect_range("window.padding", window.padding[side], 0, core::window_extent(window, axis) - 1);
    }
  }

  void check_weight(const Weight& weight, size_t rank) const {
    check(weight.shape.size() == rank, "weight.shape must have {} dimensions, got {}", rank, to_text(weight.shape));
    for (const int64_t size : weight.shape)
      check(size >= 1, "weight.shape must be positive, got {}", to_text(weight.shape));
    const int64_t count = element_count(weight.shape, fmt::format("graph: node '{}': weight.shape", node_.name));
    check(static_cast<int64_t>(weight.codes.size()) == count, "weight.codes must have {} elements, got {}", count,
          weight.codes.size());
    std::visit([&](const auto& encoding) { check_codes(weight, encoding); }, weight.encoding);
  }

  void check_codes(const Weight& weight, const UniformEncoding& uniform) const {
    expect_range("weight.bit_width", weight.bit_width, 2, 8);
    const CodeRange range = uniform_range(weight.bit_width, uniform.is_signed);
    expect_range("weight.zero_point", uniform.zero_point, range.low, range.high);
    for (const int16_t code : weight.codes) expect_range("weight.codes", code, range.low, range.high);
  }

  void check_codes(const Weight& weight, const PowerOfTwoEncoding&) const {
    expect_range("weight.bit_width", weight.bit_width, 2, 5);
    const int32_t largest = 1 << largest_exponent(weight.bit_width);
    for (const int16_t level : weight.codes) {
      const auto magnitude = static_cast<uint32_t>(std::abs(level));
      check(level == 0 || (std::has_single_bit(magnitude) && level >= -largest && level <= largest),
            "weight.codes must be 0 or a power of two up to +-{}, got {}", largest, level);
    }
  }

  void check_codes(const Weight& weight, const CodeBookEncoding& book) const {
    expect_range("weight.bit_width", weight.bit_width, 1, 8);
    expect_range("weight.entries", book.entries, 2, int64_t{1} << weight.bit_width);
    const auto entries = static_cast<size_t>(book.entries);
    const auto channels = static_cast<size_t>(weight.shape[0]);
    const size_t tables = book.levels.size() / entries;
    check(book.levels.size() % entries == 0 && (tables == 1 || tables == channels),
          "weight.levels must have 1 or {} tables of {} entries, got {} levels", channels, entries, book.levels.size());
    const size_t row = weight.codes.size() / channels;
    for (size_t c = 0; c < channels; ++c) {
      const auto table = std::span(book.levels).subspan(tables == 1 ? 0 : c * entries, entries);
      check(std::adjacent_find(table.begin(), table.end(), std::greater_equal<>()) == table.end(),
            "weight.levels must ascend in each table, got {}", fmt::join(table, ", "));
      for (const int16_t level : std::span(weight.codes).subspan(c * row, row)) {
        check(std::binary_search(table.begin(), table.end(), level),
              "weight.codes of channel {} must be in its table, got {}", c, level);
      }
    }
  }

  void check_codes(const Weight& weight, const PiecewiseEncoding& pieces) const {
    expect_range("weight.bit_width", weight.bit_width, 2, 8);
    expect_range("weight.regions", pieces.regions, 2, 4);
    check(graph_.policy == RequantPolicy::exact, "piecewise weights need the policy exact, got another ({})",
          static_cast<int>(graph_.policy));
    for (const int16_t code : weight.codes) {
      expect_range("weight.codes", code, 0, (int64_t{pieces.regions} << weight.bit_width) - 1);
      check(code != 1 << (weight.bit_width - 1), "weight.codes must not be {}: a zero of region 0 has no sign", code);
    }
  }

  // Largest magnitude of one of the layer's sums, without the bias.
  int64_t sum_bound(std::span<const int16_t> weights) const {
    int64_t sum = 0;
    for (const int16_t w : weights) sum += std::abs(w);
    return largest_centred_code(input(0).grid) * sum;
  }

  void check_accumulation(const Weight& weight, std::span<const int32_t> bias, const Requantize& requantize) const {
    const auto channels = static_cast<size_t>(weight.shape[0]);
    if (const PiecewiseEncoding* pieces = piecewise(weight)) {
      return check_sums(weight, *pieces, channels, bias, requantize);
    }
    check(bias.size() == channels, "bias must have {} elements, one per output channel, got {}", channels, bias.size());
    const std::vector<int16_t> weights = sum_weights(weight);
    const size_t row = weights.size() / channels;
    for (size_t c = 0; c < channels; ++c) {
      const int64_t bound = sum_bound(std::span(weights).subspan(c * row, row)) + std::abs(int64_t{bias[c]});
      check(bound < int64_t{1} << 31,
            "weight and bias of channel {} must keep the accumulator below 2^31, got up to {}", c, bound);
    }

    const auto multipliers = requantize.multipliers.size();
    if (multipliers == 0) {
      return check_accumulators(channels, requantize);
    }
    expect_kind("output", output(), ValueKind::codes);
    check(multipliers == 1 || multipliers == channels, "requantize.multipliers must have 1 or {} elements, got {}",
          channels, multipliers);
    for (const Multiplier& m : requantize.multipliers) check_multiplier(m);
    check_clamp(requantize.clamp_min, requantize.clamp_max);
  }

  void check_accumulators(size_t channels, const Requantize& requantize) const {
    expect_kind("output", output(), ValueKind::accumulator);
    check(output().scales.size() == channels, "the output's scales must have {} elements, got {}", channels,
          output().scales.size());
    check(requantize == Requantize{},
          "requantize.clamp_min and clamp_max must be 0 and 255 where nothing is requantized, got {} and {}",
          requantize.clamp_min, requantize.clamp_max);
    for (const double scale : output().scales) {
      check(!by_shift() || core::is_power_of_two(scale),
            "the output's scales must be powers of two under the shift policy, got {}", scale);
    }
  }

  void check_sums(const Weight& weight, const PiecewiseEncoding& pieces, size_t channels, std::span<const int32_t> bias,
                  const Requantize& requantize) const {
    check(bias.empty() && requantize.multipliers.empty(),
          "piecewise weights take no bias and no requantize.multipliers, got {} and {}", bias.size(),
          requantize.multipliers.size());
    const auto sums = static_cast<size_t>(pieces.sums());
    const auto expect_size = [&](const char* field, size_t found, size_t wanted) {
      check(found == wanted, "weight.{} must have {} elements, got {}", field, wanted, found);
    };
    expect_size("multipliers", pieces.multipliers.size(), sums * channels);
    expect_size("constants", pieces.constants.size(), channels);
    expect_size("shifts", pieces.shifts.size(), channels);
    const bool to_codes = output().kind == ValueKind::codes;
    if (to_codes) {
      check_clamp(requantize.clamp_min, requantize.clamp_max);
    } else {
      check_accumulators(channels, requantize);
    }

    std::vector<__int128> totals(channels);
    for (size_t c = 0; c < channels; ++c) totals[c] = magnitude(pieces.constants[c]);
    const size_t row = weight.codes.size() / channels;
    for (size_t k = 0; k < sums; ++k) {
      const std::vector<int16_t> weights = sum_weights(weight, static_cast<int32_t>(k));
      for (size_t c = 0; c < channels; ++c) {
        const int64_t bound = sum_bound(std::span(weights).subspan(c * row, row));
        check(bound < int64_t{1} << 31, "weight of channel {} must keep sum {} below 2^31, got up to {}", c, k, bound);
        const int32_t m = pieces.multipliers[k * channels + c];
        check(m != INT32_MIN, "|weight.multipliers| must be below 2^31, got {}", m);
        totals[c] += magnitude(m) * bound;
      }
    }
    for (size_t c = 0; c < channels; ++c) {
      const int32_t shift = pieces.shifts[c];
      expect_range("weight.shifts", shift, 0, 62);
      check(totals[c] < __int128{1} << 62, "weight.multipliers and constants must keep channel {} below 2^62", c);
      check(to_codes || (totals[c] >> shift) + 1 < __int128{1} << 31,
            "weight.multipliers and constants must keep the accumulator of channel {} below 2^31", c);
    }
  }

  static __int128 magnitude(int64_t x) { return x < 0 ? -__int128{x} : __int128{x}; }

  void check_multiplier(const Multiplier& m) const {
    const int64_t magnitude = std::abs(int64_t{m.multiplier});
    switch (graph_.policy) {
      case RequantPolicy::exact:
        check(magnitude == 0 || (magnitude >= 1 << 23 && magnitude < 1 << 24),
              "|requantize.multiplier| must be 0 or in [2^23, 2^24) under the exact policy, got {}", m.multiplier);
        expect_range("requantize.shift", m.shift, 0, 62);
        return;
      case RequantPolicy::gemmlowp:
        check(magnitude == 0 || (magnitude >= 1 << 30 && magnitude < int64_t{1} << 31),
              "|requantize.multiplier| must be 0 or in [2^30, 2^31) under the gemmlowp policy, got {}", m.multiplier);
        expect_range("requantize.shift", m.shift, -31, 30);
        return;
      case RequantPolicy::shift:
        check(m.multiplier == 1, "requantize.multiplier must be 1 under the shift policy, got {}", m.multiplier);
        expect_range("requantize.shift", m.shift, -31, 62);
        return;
    }
  }

  const Graph& graph_;
  const Node& node_;
};

/// Names, references and the order of execution: every value comes from exactly one place, before it is used.
class ReferenceValidator {
 public:
  explicit ReferenceValidator(const Graph& graph) : graph_(graph), made_(graph.values.size(), false) {}

  void run() {
    std::unordered_set<std::string_view> names;
    for (const Value& value : graph_.values) {
      check_value(value, graph_.policy);
      require(names.insert(value.name).second, "graph: value '{}': names must be unique", value.name);
    }
    require(!graph_.inputs.empty(), "graph: inputs must not be empty");
    for (const ValueId id : graph_.inputs) {
      const Value& value = at(id, "graph: inputs");
      require(value.kind != ValueKind::accumulator, "graph: input '{}' must be real or codes, got accumulators",
              value.name);
      require(!made_[static_cast<size_t>(id)], "graph: input '{}' is listed twice", value.name);
      made_[static_cast<size_t>(id)] = true;
    }
    for (const Node& node : graph_.nodes) check_node(node);
    for (size_t i = 0; i < made_.size(); ++i) {
      require(made_[i], "graph: value '{}' is neither an input nor made by a node", graph_.values[i].name);
    }
    require(!graph_.outputs.empty(), "graph: outputs must not be empty");
    std::unordered_set<ValueId> outputs;
    for (const ValueId id : graph_.outputs) {
      const Value& value = at(id, "graph: outputs");
      const bool is_input = std::find(graph_.inputs.begin(), graph_.inputs.end(), id) != graph_.inputs.end();
      require(!is_input, "graph: output '{}' must be made by a node, got an input", value.name);
      require(outputs.insert(id).second, "graph: output '{}' is listed twice", value.name);
    }
  }

 private:
  const Value& at(ValueId id, std::string_view what) const {
    require(id >= 0 && id < static_cast<ValueId>(graph_.values.size()), "{}: must name a value in [0, {}), got {}",
            what, graph_.values.size(), id);
    return graph_.values[static_cast<size_t>(id)];
  }

  void check_node(const Node& node) {
    const std::string where = fmt::format("graph: node '{}' ({})", node.name, kind_name(node.operation));
    for (const ValueId id : node.inputs) {
      const Value& value = at(id, where + ": inputs");
      require_at(node, made_[static_cast<size_t>(id)], "input '{}' must be made by an earlier node", value.name);
    }
    const Value& output = at(node.output, where + ": output");
    require_at(node, output.name == node.name, "the output value must have the node's name, got '{}'", output.name);
    require_at(node, !made_[static_cast<size_t>(node.output)], "output '{}' is already made elsewhere", output.name);
    made_[static_cast<size_t>(node.output)] = true;
    std::visit(NodeValidator(graph_, node), node.operation);
  }

  const Graph& graph_;
  std::vector<bool> made_;  // by ValueId: is it available yet
};

}  // namespace

void require_average_in_range(const Node& node, const AvgPool2d& pool, int64_t taps) {
  using Wide = __int128;
  constexpr Wide limit = Wide{1} << 62;
  const auto magnitude = [](int64_t x) { return x < 0 ? -Wide{x} : Wide{x}; };
  const int64_t divisor = pool.divisor_override > 0 ? pool.divisor_override : taps;
  require_at(node, Wide{divisor} << pool.shift <= limit,
             "the divisor shifted by shift must be at most 2^62, got {} << {}", divisor, pool.shift);
  const Wide sum =
      taps * (255 * magnitude(pool.multiplier) + magnitude(pool.tap_constant)) + divisor * magnitude(pool.constant);
  require_at(node, sum < limit,
             "multiplier, tap_constant and constant must keep the sum of {} taps below 2^62, got {}, {} and {}", taps,
             pool.multiplier, pool.tap_constant, pool.constant);
}

void validate(const Graph& graph) {
  const auto policy = static_cast<int>(graph.policy);
  require(policy >= 0 && policy <= static_cast<int>(RequantPolicy::shift),
          "graph: policy must be exact, gemmlowp or shift, got {}", policy);
  ReferenceValidator(graph).run();
}

}  // namespace qstep::ir
