#pragma once
// The integer network as data: a list of nodes over named values, free of torch and of any kernel's layout.
//
// A value is a tensor of codes with a Grid, or the float input, a float output, or the int32 accumulators of a last
// layer. Shapes are logical: images are [N, C, H, W] whatever the memory layout of the engine. Activation grids are
// unsigned: quant_min 0, quant_max in [1, 255], zero_point in [0, quant_max]. Every node's integer definition is in
// docs/numerics.md.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "qstep/core/grid.h"
#include "qstep/core/requantize.h"
#include "qstep/core/window.h"

namespace qstep::ir {

using core::Grid;
using core::Multiplier;
using core::RequantPolicy;
using core::Window;

using ValueId = int32_t;
inline constexpr ValueId no_value = -1;

using Shape = std::vector<int64_t>;
inline constexpr size_t max_rank = 8;
inline constexpr int64_t max_elements = int64_t{1} << 40;  ///< of one value: byte counts and offsets stay far from 2^63
inline constexpr int32_t max_window = 1 << 15;             ///< of every field of a Window

enum class ValueKind : uint8_t {
  real,         ///< float32: an input of the network or the output of a Dequantize
  codes,        ///< uint8 codes on `grid`
  accumulator,  ///< int32 of a layer without requantization; real = scales[c] * value, c the layer's output channel
};

struct Value {
  std::string name;  ///< unique in the graph: the layer that produced it, as the training model calls it
  ValueKind kind = ValueKind::codes;
  Grid grid;  ///< codes only
  std::vector<double>
      scales;   ///< accumulator only: one per channel (dim 1 of a convolution's output, the last of a linear's)
  Shape shape;  ///< the shape seen when the network was converted; dim 0 is the batch. Information, not a limit.
  friend bool operator==(const Value&, const Value&) = default;
};

// --- weights ---------------------------------------------------------------------------------------------------------

/// Evenly spaced levels. Codes are stored; what runs is code - zero_point.
struct UniformEncoding {
  bool is_signed = true;   ///< two's complement codes, or codes from 0
  int32_t zero_point = 0;  ///< per tensor, in the range of bit_width
  friend bool operator==(const UniformEncoding&, const UniformEncoding&) = default;
};

/// Levels 0 and +-2^j, 0 <= j < 2^(bit_width - 2) (INQ), bit_width 2..5.
struct PowerOfTwoEncoding {
  bool variable_length =
      false;  ///< as stored: a zero takes 1 bit and any other weight bit_width, or all take bit_width
  friend bool operator==(const PowerOfTwoEncoding&, const PowerOfTwoEncoding&) = default;
};

/// Any levels, listed in a table; bit_width, 1..8, is that of the stored index.
struct CodeBookEncoding {
  int32_t entries = 0;          ///< of one table, 2..2^bit_width
  std::vector<int16_t> levels;  ///< one table, or one per output channel, each in ascending order
  friend bool operator==(const CodeBookEncoding&, const CodeBookEncoding&) = default;
};

/// A sign, a magnitude of bit_width - 1 bits and one of a few regions of evenly spaced magnitudes (PWLQ), bit_width 2..8:
///   real = (negative ? -1 : 1) * (start[region] + step[region] * magnitude) + constant[channel],   start[0] = 0
/// The layer computes exact int32 sums of centred input codes c, in this order: of +-magnitude * c over the weights of
/// each region; of +-c over those of each region but the first; with has_constant, of c over all. The result is
///   t = sum_k multipliers[k][channel] * sum_k + constants[channel];   shift_right_half_even(t, shifts[channel])
/// in steps of the output's grid, or as an accumulator. Steps, starts, constants, batch norm, bias and both grids are in
/// the multipliers and constants, so the layer has no bias and no Requantize::multipliers.
struct PiecewiseEncoding {
  int32_t regions = 2;  ///< 2..4
  bool has_constant = false;
  std::vector<int32_t> multipliers;  ///< [sums][out], > INT32_MIN
  std::vector<int64_t> constants;    ///< [out]; no |t| reaches 2^62
  std::vector<int8_t> shifts;        ///< [out], 0..62

  int32_t sums() const { return 2 * regions - 1 + (has_constant ? 1 : 0); }
  friend bool operator==(const PiecewiseEncoding&, const PiecewiseEncoding&) = default;
};

using WeightEncoding = std::variant<UniformEncoding, PowerOfTwoEncoding, CodeBookEncoding, PiecewiseEncoding>;

/// Integer weights. What their codes stand for is the encoding's; ir/weight.h takes them apart.
struct Weight {
  Shape shape;            ///< [out, in / groups, kernel_h, kernel_w] or [out, in]
  int32_t bit_width = 8;  ///< as the encoding says; 2..8 where it does not
  WeightEncoding encoding;
  std::vector<int16_t> codes;  ///< row-major, one per weight. uniform: codes. power_of_two, code_book: levels.
                               ///< piecewise: region << bit_width | negative << (bit_width - 1) | magnitude
  friend bool operator==(const Weight&, const Weight&) = default;
};

/// From accumulators to codes: multipliers.size() is 1 or the number of output channels. The result is
/// clamp(requantize(acc) + zero_point of the output grid, clamp_min, clamp_max).
struct Requantize {
  std::vector<Multiplier> multipliers;  ///< empty: none, the accumulators are the output, and there is nothing to clamp
  int32_t clamp_min = 0;                ///< a fused ReLU raises it, in output codes
  int32_t clamp_max = 255;
  friend bool operator==(const Requantize&, const Requantize&) = default;
};

// --- nodes -----------------------------------------------------------------------------------------------------------

/// real -> codes on the grid of the output value.
struct Quantize {
  friend bool operator==(const Quantize&, const Quantize&) = default;
};

/// acc = sum (q_x - zero_code) * level + bias; padded taps count as zero_code. requantize or accumulators. A layer with
/// piecewise weights has several such sums (PiecewiseEncoding).
struct Conv2d {
  Window window;
  int32_t groups = 1;
  Weight weight;
  std::vector<int32_t> bias;  ///< one per output channel; none with piecewise weights
  Requantize requantize;      ///< empty multipliers: the output is an accumulator value, but for piecewise weights
  friend bool operator==(const Conv2d&, const Conv2d&) = default;
};

/// The same over the last dimension: [N, ..., in] -> [N, ..., out].
struct Linear {
  Weight weight;
  std::vector<int32_t> bias;
  Requantize requantize;
  friend bool operator==(const Linear&, const Linear&) = default;
};

/// Two inputs of one rank, the second broadcast over dimensions where its size is 1. With c = q - zero_code of each:
/// t = product * c_a * c_b + left * c_a + right * c_b + constant;
/// q = shift_right_half_even(t, shift) + zero_point, clamped.
/// Addition has product = 0. |product| < 2^36, |left|, |right| < 2^46, |constant| < 2^53 and the whole sum < 2^53.
struct Bilinear {
  enum class Operation : uint8_t { add, multiply } operation = Operation::add;  ///< what it came from; for readers
  int64_t product = 0;
  int64_t left = 0;
  int64_t right = 0;
  int64_t constant = 0;
  int32_t shift = 0;  ///< 0..62
  int32_t clamp_min = 0;
  int32_t clamp_max = 255;
  friend bool operator==(const Bilinear&, const Bilinear&) = default;
};

/// Any function of one code: output = table[input]. Activations, and a change of grid.
struct Lookup {
  std::string function;        ///< "silu", "sigmoid", "hardswish", "relu", "clamp", "identity", ...: for readers
  std::vector<uint8_t> table;  ///< quant_max + 1 entries of the input grid
  friend bool operator==(const Lookup&, const Lookup&) = default;
};

/// Largest code of each window; padding never wins. Output grid = input grid. Each padding is less than the window's
/// extent. With ceil_mode the last window may overhang the padded image, but starts inside the image or the padding
/// before it.
struct MaxPool2d {
  Window window;
  bool ceil_mode = false;
  friend bool operator==(const MaxPool2d&, const MaxPool2d&) = default;
};

/// Mean of each window on the output grid, one rounding, for any count n of taps:
/// q = divide_half_even(multiplier * sum(c) + n * constant, n << shift) + zero_point, clamped; c = q_x - zero_code.
/// n counts the taps inside the image, with count_include_pad also those in its padding (where c is 0), never those
/// beyond. With divisor_override d the sum is divided by d instead, whatever the number t of taps inside the image:
/// q = divide_half_even(multiplier * sum(c) + t * tap_constant + d * constant, d << shift) + zero_point, clamped.
/// With D the divisor and n the taps of the largest window, D << shift <= 2^62 and
/// n * (255 * |multiplier| + |tap_constant|) + D * |constant| < 2^62. dilation is 1. Window sizes as for MaxPool2d.
struct AvgPool2d {
  Window window;
  bool ceil_mode = false;
  bool count_include_pad = true;
  bool adaptive =
      false;  ///< then output_size rules, window i of o covers [floor(i*s/o), ceil((i+1)*s/o)), `window` is unused
  int32_t output_size[2] = {1, 1};  ///< adaptive only; 0 keeps the input's size
  int32_t divisor_override = 0;     ///< 0: none. With `adaptive` all windows must have one size
  int32_t multiplier = 0;           ///< 24-bit mantissa of scale_in / scale_out: magnitude below 2^24
  int64_t constant = 0;             ///< (residual_in - offset_out) / scale_out in units of 2^-shift; with
                                    ///< divisor_override -offset_out / scale_out
  int64_t tap_constant = 0;         ///< residual_in / scale_out in the same units; 0 without divisor_override
  int32_t shift = 0;
  int32_t clamp_min = 0;
  int32_t clamp_max = 255;
  friend bool operator==(const AvgPool2d&, const AvgPool2d&) = default;
};

/// Codes side by side along `axis`; all inputs and the output are on one grid.
struct Concat {
  int32_t axis = 1;
  friend bool operator==(const Concat&, const Concat&) = default;
};

/// Same codes, other shape. A 0 keeps the input's size at that position, one -1 takes what is left.
struct Reshape {
  Shape shape;
  friend bool operator==(const Reshape&, const Reshape&) = default;
};

struct Permute {
  std::vector<int32_t> order;
  friend bool operator==(const Permute&, const Permute&) = default;
};

/// Codes start, start + step, ... below stop along axis (chunk and split become one Slice per piece).
struct Slice {
  int32_t axis = 1;
  int64_t start = 0;
  int64_t stop = 0;
  int64_t step = 1;  ///< >= 1
  friend bool operator==(const Slice&, const Slice&) = default;
};

/// `before` and `after` codes more along each dimension, all of them the zero code of the grid.
struct Pad {
  Shape before;  ///< one size per dimension, >= 0
  Shape after;
  friend bool operator==(const Pad&, const Pad&) = default;
};

/// codes or accumulators -> real: the output of the network.
struct Dequantize {
  friend bool operator==(const Dequantize&, const Dequantize&) = default;
};

using Operation = std::variant<Quantize, Conv2d, Linear, Bilinear, Lookup, MaxPool2d, AvgPool2d, Concat, Reshape,
                               Permute, Slice, Pad, Dequantize>;

struct Node {
  std::string name;  ///< unique; equals its output value's name
  Operation operation;
  std::vector<ValueId> inputs;
  ValueId output = no_value;
  friend bool operator==(const Node&, const Node&) = default;
};

/// A graph of the policy `shift` holds fixed-point numbers and multiplies by no constant. Every scale is a power of two
/// and every offset 0; a Multiplier is {1, shift}; a Bilinear is an addition with constant 0 whose left and right are
/// powers of two up to 2^22; an AvgPool2d has constants of 0, and a multiplier and a divisor_override that are powers of
/// two.
struct Graph {
  RequantPolicy policy = RequantPolicy::exact;
  std::vector<Value> values;
  std::vector<Node> nodes;       ///< in the order of execution
  std::vector<ValueId> inputs;   ///< real or codes
  std::vector<ValueId> outputs;  ///< of any kind, each made by a node
  friend bool operator==(const Graph&, const Graph&) = default;
};

/// The encoding as the checkpoint and `summary` spell it: "uniform", "power_of_two", "code_book", "piecewise".
const char* encoding_name(const WeightEncoding& encoding);

/// The node's operation as the checkpoint and `summary` spell it: "conv2d", "max_pool2d", ...
const char* kind_name(const Operation& operation);

/// Checks every invariant stated in this file: names, references, order, kinds, ranges, sizes, and that no int32
/// accumulator can overflow (from the actual weights). Throws Error naming the node and the field.
void validate(const Graph& graph);

/// The shape that a node of a valid graph makes from its inputs' shapes. Throws Error naming the node where it cannot
/// take them.
Shape output_shape(const Node& node, std::span<const Shape> input_shapes);

/// output_shape node by node: the shape of each value for these input shapes, indexed by ValueId.
std::vector<Shape> infer_shapes(const Graph& graph, const std::vector<Shape>& input_shapes);

/// Product of the sizes; throws Error naming `what` unless there are at most max_rank sizes, all >= 0, of product <=
/// max_elements.
int64_t element_count(const Shape& shape, std::string_view what);

}  // namespace qstep::ir
