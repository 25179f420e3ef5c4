#pragma once
// Lowering: from layers described by real numbers to the nodes of the integer graph. All rounding of constants that the
// integer network contains (bias, multipliers, tables) happens here, once, for C++ and Python alike. docs/numerics.md derives
// each formula.
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "qstep/ir/graph.h"
#include "qstep/ir/real_weight.h"

namespace qstep::ir {

/// The grid a layer's result is requantized to, and the real interval of a fused activation (ReLU: [0, inf)).
struct Target {
  Grid grid;
  double clamp_low = -std::numeric_limits<double>::infinity();
  double clamp_high = std::numeric_limits<double>::infinity();
};

/// y[c] = factor[c] * conv(x, w)[c] + bias[c]: what batch norm and the layer's own bias amount to.
struct ChannelAffine {
  std::span<const double> factor;  ///< empty: all 1
  std::span<const double> bias;    ///< empty: all 0
};

/// Adds nodes one at a time; every function returns the value that the new node makes. Names must be unique. Bad arguments throw
/// Error naming the node. Grids may be signed: the graph stores them with codes from 0 (core::to_unsigned).
class Builder {
 public:
  explicit Builder(RequantPolicy policy = RequantPolicy::exact) { graph_.policy = policy; }

  /// An input of float32 values.
  ValueId input(const std::string& name, std::vector<int64_t> shape);
  /// An input that is on a grid already: uint8 codes.
  ValueId input(const std::string& name, std::vector<int64_t> shape, const Grid& grid);

  ValueId quantize(const std::string& name, ValueId x, const Grid& grid);

  /// Without a target the result stays in accumulators, the last layer of a classifier: in the exact units of input and
  /// weight scale or, with piecewise weights, in powers of two, one per channel, such that no result reaches 2^30. Piecewise
  /// weights take the policy exact only.
  ValueId conv2d(const std::string& name, ValueId x, const Window& window, int32_t groups, const RealWeight& weight,
                 const ChannelAffine& affine, const std::optional<Target>& target);
  ValueId linear(const std::string& name, ValueId x, const RealWeight& weight, const ChannelAffine& affine,
                 const std::optional<Target>& target);

  /// left_factor * left + right_factor * right. A factor is finite; under the policy shift a power of two.
  ValueId add(const std::string& name, ValueId left, ValueId right, const Target& target, double left_factor = 1.0,
              double right_factor = 1.0);
  ValueId multiply(const std::string& name, ValueId left, ValueId right, const Target& target);

  /// function: identity, relu, clamp (low, high), sigmoid, silu, hardsigmoid, hardswish, tanh, leaky_relu (slope), gelu, elu (alpha).
  ValueId lookup(const std::string& name, ValueId x, const std::string& function, std::span<const double> arguments,
                 const Grid& grid);

  ValueId max_pool2d(const std::string& name, ValueId x, const Window& window, bool ceil_mode);
  /// factor * mean. divisor_override 0 divides by the number of taps (with count_include_pad those in the padding too), else the sum of
  /// the taps inside the image is divided by it. Under the policy shift the factor is a power of two, and so is the divisor: it must be
  /// given unless all windows have a power of two of taps.
  ValueId avg_pool2d(const std::string& name, ValueId x, const Window& window, bool ceil_mode, bool count_include_pad,
                     const Target& target, double factor = 1.0, int32_t divisor_override = 0);
  /// Window i of o along a dimension of size s covers [floor(i*s/o), ceil((i+1)*s/o)). With divisor_override all windows must have one
  /// size. A height or width of 0 keeps the input's.
  ValueId adaptive_avg_pool2d(const std::string& name, ValueId x, int32_t height, int32_t width, const Target& target,
                              double factor = 1.0, int32_t divisor_override = 0);

  /// Inputs on other grids than `grid` pass through an identity lookup named `name`.input0, `name`.input1, ...
  ValueId concat(const std::string& name, std::span<const ValueId> inputs, int32_t axis, const Grid& grid);

  ValueId reshape(const std::string& name, ValueId x, std::vector<int64_t> shape);
  ValueId permute(const std::string& name, ValueId x, std::vector<int32_t> order);
  ValueId slice(const std::string& name, ValueId x, int32_t axis, int64_t start, int64_t stop, int64_t step = 1);
  /// Real zeros around x, that is the code nearest to zero: before[i] and after[i] of them along dimension i.
  ValueId pad(const std::string& name, ValueId x, std::vector<int64_t> before, std::vector<int64_t> after);

  /// Codes or accumulators become a float32 output of the network.
  ValueId dequantize(const std::string& name, ValueId x);
  /// Marks a value as an output of the network.
  void output(ValueId x);

  const Graph& graph() const { return graph_; }
  /// The validated graph; throws Error as ir::validate does.
  Graph finish() const;

 private:
  ValueId append(const std::string& name, Operation operation, std::vector<ValueId> inputs, Value output);
  ValueId bilinear(const std::string& name, ValueId left, ValueId right, Bilinear node, const Target& target,
                   double left_factor, double right_factor);
  ValueId average(const std::string& name, ValueId x, AvgPool2d pool, const Target& target, double factor);
  const Value& codes(const std::string& name, ValueId x) const;  // a codes value or an Error

  Graph graph_;
};

/// The function of `lookup` at x, in double. Throws Error for an unknown name or a wrong number of arguments.
double evaluate(const std::string& function, std::span<const double> arguments, double x);

}  // namespace qstep::ir
