#pragma once
// What a checkpoint stores of each structure: one list of fields, which its writer and its reader both walk.
// docs/format.md says what each means.
//
// An archive offers: archive(key, field) for numbers, strings, lists and enumerations; archive.object(key, structure);
// archive.optional_object(key, structure), absent where it equals its default; archive.since(version, key, field) for
// what that version of the format added, which keeps its default in files of older ones; archive.encoding(variant), by
// name; and, for what is stored as a tensor, archive.tensor(suffix, vector), archive.multipliers(vector) and
// archive.codes(weight).
#include <array>
#include <concepts>

#include "qstep/ir/graph.h"

namespace qstep::ir {

/// A structure, const for the writer.
template <class T, class Structure>
concept Is = std::same_as<std::remove_const_t<T>, Structure>;

/// How an enumeration is spelled; the order is that of its members.
template <class Enumeration>
inline constexpr std::array<const char*, 0> spelling = {};
template <>
inline constexpr std::array spelling<RequantPolicy> = {"exact", "gemmlowp", "shift"};
template <>
inline constexpr std::array spelling<ValueKind> = {"real", "codes", "accumulator"};
template <>
inline constexpr std::array spelling<Bilinear::Operation> = {"add", "multiply"};

void fields(auto& archive, Is<Grid> auto& grid) {
  archive("scale", grid.scale);
  archive("zero_point", grid.zero_point);
  archive("offset", grid.offset);
  archive("quant_max", grid.quant_max);
}

void fields(auto& archive, Is<Value> auto& value) {
  archive("kind", value.kind);
  archive("shape", value.shape);
  if (value.kind == ValueKind::codes) archive.object("grid", value.grid);
  if (value.kind == ValueKind::accumulator) archive.tensor("scales", value.scales);
}

void fields(auto& archive, Is<UniformEncoding> auto& uniform) {
  archive("is_signed", uniform.is_signed);
  archive("zero_point", uniform.zero_point);
}

void fields(auto& archive, Is<PowerOfTwoEncoding> auto& powers) { archive("variable_length", powers.variable_length); }

void fields(auto& archive, Is<CodeBookEncoding> auto& book) {
  archive("entries", book.entries);
  archive.tensor("levels", book.levels);
}

void fields(auto& archive, Is<PiecewiseEncoding> auto& pieces) {
  archive("regions", pieces.regions);
  archive("has_constant", pieces.has_constant);
  archive.tensor("multiplier", pieces.multipliers);
  archive.tensor("constant", pieces.constants);
  archive.tensor("shift", pieces.shifts);
}

void fields(auto& archive, Is<Weight> auto& weight) {
  archive("shape", weight.shape);
  archive("bit_width", weight.bit_width);
  archive.encoding(weight.encoding);
  archive.codes(weight);
}

void fields(auto& archive, Is<Requantize> auto& requantize) {
  archive("clamp_min", requantize.clamp_min);
  archive("clamp_max", requantize.clamp_max);
  archive.multipliers(requantize.multipliers);
}

void fields(auto& archive, Is<Window> auto& window) {
  archive("kernel", window.kernel);
  archive("stride", window.stride);
  archive("padding", window.padding);
  archive("dilation", window.dilation);
}

void fields(auto&, Is<Quantize> auto&) {}

/// Weights, and what becomes of the sums: piecewise ones have constants of their own.
void layer_fields(auto& archive, auto& layer) {
  archive.object("weight", layer.weight);
  if (std::holds_alternative<PiecewiseEncoding>(layer.weight.encoding)) {
    archive("clamp_min", layer.requantize.clamp_min);
    archive("clamp_max", layer.requantize.clamp_max);
  } else {
    archive.tensor("bias", layer.bias);
    archive.optional_object("requantize", layer.requantize);
  }
}

void fields(auto& archive, Is<Conv2d> auto& conv) {
  archive.object("window", conv.window);
  archive("groups", conv.groups);
  layer_fields(archive, conv);
}

void fields(auto& archive, Is<Linear> auto& linear) { layer_fields(archive, linear); }

void fields(auto& archive, Is<Bilinear> auto& op) {
  archive("operation", op.operation);
  archive("product", op.product);
  archive("left", op.left);
  archive("right", op.right);
  archive("constant", op.constant);
  archive("shift", op.shift);
  archive("clamp_min", op.clamp_min);
  archive("clamp_max", op.clamp_max);
}

void fields(auto& archive, Is<Lookup> auto& op) {
  archive("function", op.function);
  archive.tensor("table", op.table);
}

void fields(auto& archive, Is<MaxPool2d> auto& pool) {
  archive.object("window", pool.window);
  archive("ceil_mode", pool.ceil_mode);
}

void fields(auto& archive, Is<AvgPool2d> auto& pool) {
  archive.object("window", pool.window);
  archive("ceil_mode", pool.ceil_mode);
  archive("count_include_pad", pool.count_include_pad);
  archive("adaptive", pool.adaptive);
  archive("output_size", pool.output_size);
  archive.since(2, "divisor_override", pool.divisor_override);
  archive("multiplier", pool.multiplier);
  archive("constant", pool.constant);
  archive.since(2, "tap_constant", pool.tap_constant);
  archive("shift", pool.shift);
  archive("clamp_min", pool.clamp_min);
  archive("clamp_max", pool.clamp_max);
}

void fields(auto& archive, Is<Concat> auto& op) { archive("axis", op.axis); }

void fields(auto& archive, Is<Reshape> auto& op) { archive("shape", op.shape); }

void fields(auto& archive, Is<Permute> auto& op) { archive("order", op.order); }

void fields(auto& archive, Is<Slice> auto& op) {
  archive("axis", op.axis);
  archive("start", op.start);
  archive("stop", op.stop);
  archive.since(2, "step", op.step);
}

void fields(auto& archive, Is<Pad> auto& op) {
  archive("before", op.before);
  archive("after", op.after);
}

void fields(auto&, Is<Dequantize> auto&) {}

}  // namespace qstep::ir
