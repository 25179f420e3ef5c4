// torch.ops.qstep.pwlq, pwlq_breakpoint, pwlq_encode, pwlq_code_book, top_k_range, and the two kernels below them,
// pwlq_quantize and pwlq_estimate: schemas, checks, Meta, CPU, autograd. Formulas: math.h.
#include "qstep/methods/pwlq/op.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/var_mean.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <tuple>
#include <vector>

#include "qstep/methods/functional.h"
#include "qstep/methods/pwlq/cpu.h"
#include "qstep/methods/pwlq/search.h"

namespace qstep::methods::pwlq {

using at::Tensor;
using OptionalAxis = std::optional<int64_t>;
using OptionalTensor = std::optional<Tensor>;
using Codes = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
using CodeBook = std::tuple<Tensor, Tensor, Tensor>;
using TwoTensors = std::tuple<Tensor, Tensor>;

Estimate estimate_from_name(std::string_view op, std::string_view name) {
  if (name == "gaussian") return {Density::gaussian, true};
  if (name == "laplace") return {Density::laplace, true};
  if (name == "optimal_gaussian") return {Density::gaussian, false};
  require(name == "optimal_laplace",
          "{}: estimate must be 'gaussian', 'laplace', 'optimal_gaussian', 'optimal_laplace' or 'search', got '{}'", op,
          name);
  return {Density::laplace, false};
}

namespace {

void check_bit_width(std::string_view op, int64_t bit_width) {
  require(bit_width >= 2 && bit_width <= 8, "{}: bit_width must be in [2, 8], got {}", op, bit_width);
}

void check_count(std::string_view op, int64_t breakpoints) {
  require(breakpoints >= 1 && breakpoints <= max_breakpoints, "{}: breakpoints must be in [1, {}], got {}", op,
          max_breakpoints, breakpoints);
}

}  // namespace

void check_pieces(const Tensor& w, const Tensor& start, const Tensor& step, int64_t bit_width, OptionalAxis axis) {
  constexpr std::string_view op = "pwlq_quantize";
  check_bit_width(op, bit_width);
  check_input(op, w, axis);
  check_floating(op, "start", start);
  check_floating(op, "step", step);
  const c10::SymInt channels = axis ? w.sym_size(*axis) : c10::SymInt(1);
  require(
      start.dim() == 2 && start.sym_size(0) == channels && start.sym_size(1) >= 2 && start.sym_size(1) <= max_pieces,
      "{}: start must have shape [{}, 2 to {}], pieces of each channel, got {}", op, c10::str(channels), max_pieces,
      c10::str(start.sym_sizes()));
  require(step.sym_sizes() == start.sym_sizes(), "{}: step must have the shape of start, {}, got {}", op,
          c10::str(start.sym_sizes()), c10::str(step.sym_sizes()));
  require(start.device() == w.device() && step.device() == w.device(),
          "{}: start and step must be on the device of w, {}, got {} and {}", op, w.device().str(),
          start.device().str(), step.device().str());
}

void check_statistics(const Tensor& max, const Tensor& sd, int64_t breakpoints) {
  constexpr std::string_view op = "pwlq_estimate";
  check_count(op, breakpoints);
  require(max.scalar_type() == at::kDouble && sd.scalar_type() == at::kDouble && max.dim() == 1 &&
              max.sym_sizes() == sd.sym_sizes() && max.device() == sd.device(),
          "{}: max and sd must be float64 of one shape [channels] and device, got {} {} and {} {}", op,
          c10::toString(max.scalar_type()), c10::str(max.sym_sizes()), c10::toString(sd.scalar_type()),
          c10::str(sd.sym_sizes()));
}

Memory memory_of(const Tensor& w, const Tensor& start, const Tensor& step, OptionalAxis axis) {
  const at::ScalarType dtype = compute_dtype(w.scalar_type());
  const Tensor memory = dense(w);
  return {memory, values_of(start, dtype), values_of(step, dtype), Tiling(channel_layout(memory, axis))};
}

namespace {

enum class Correction : uint8_t { none, repo, exact };

/// The arguments that pwlq, pwlq_encode and pwlq_code_book share, checked.
struct Settings {
  std::string_view op;
  int64_t bit_width;
  OptionalAxis axis;
  std::string_view estimate;
  int64_t breakpoints;  // the number of them
  Scheme scheme;
  Correction correction;
};

Settings checked_settings(std::string_view op, const Tensor& w, const OptionalTensor& breakpoint, int64_t bit_width,
                          OptionalAxis axis, std::string_view estimate, int64_t breakpoints, std::string_view scheme,
                          std::string_view bias_correction) {
  check_bit_width(op, bit_width);
  check_input(op, w, axis);
  check_count(op, breakpoints);
  if (estimate != "search") estimate_from_name(op, estimate);
  require(scheme == "paper" || scheme == "repo", "{}: scheme must be 'paper' or 'repo', got '{}'", op, scheme);
  require(bias_correction == "none" || bias_correction == "repo" || bias_correction == "exact",
          "{}: bias_correction must be 'none', 'repo' or 'exact', got '{}'", op, bias_correction);
  if (breakpoint) {
    check_floating(op, "breakpoint", *breakpoint);
    require(breakpoint->device() == w.device(), "{}: breakpoint must be on the device of w, {}, got {}", op,
            w.device().str(), breakpoint->device().str());
    const int64_t per_channel = axis ? 1 : 0;
    const bool many = breakpoint->dim() == per_channel + 1;
    require(many || breakpoint->dim() == per_channel, "{}: breakpoint must have shape {}, got {}", op,
            axis ? "[channels] or [channels, count]" : "[] or [count]", c10::str(breakpoint->sym_sizes()));
    require(!axis || breakpoint->sym_size(0) == w.sym_size(*axis),
            "{}: breakpoint must have one row per channel, {}, got shape {}", op,
            c10::str(w.sym_size(axis.value_or(0))), c10::str(breakpoint->sym_sizes()));
    breakpoints = many ? breakpoint->size(-1) : 1;
    check_count(op, breakpoints);
  }
  return {op,
          bit_width,
          axis,
          estimate,
          breakpoints,
          scheme == "repo" ? Scheme::repo : Scheme::paper,
          bias_correction == "none" ? Correction::none
                                    : (bias_correction == "repo" ? Correction::repo : Correction::exact)};
}

// --- channels as rows ------------------------------------------------------------------------------------------------

/// w as float64 [channels, elements of one].
Tensor rows_of(const Tensor& w, OptionalAxis axis) {
  const Tensor values = w.detach().to(at::kDouble);
  if (!axis) return values.reshape({1, values.numel()});
  const Tensor moved = values.movedim(*axis, 0);
  return moved.reshape({moved.size(0), moved.size(0) == 0 ? 0 : moved.numel() / moved.size(0)});
}

/// One number per channel, shaped to meet w.
Tensor along(const Tensor& per_channel, const Tensor& w, OptionalAxis axis) {
  if (!axis) return per_channel.reshape({});
  std::vector<int64_t> shape(static_cast<size_t>(w.dim()), 1);
  shape[static_cast<size_t>(*axis < 0 ? *axis + w.dim() : *axis)] = -1;
  return per_channel.reshape(shape);
}

/// Largest magnitude of each row, 0 where it is too small to make steps of.
Tensor largest_of(std::string_view op, const Tensor& rows) {
  if (rows.size(1) == 0) return at::zeros({rows.size(0)}, rows.options());
  const Tensor largest = rows.abs().amax(1);
  if (largest.device().is_cpu()) check_finite(op, "w", largest);
  return at::where(largest < smallest_range, 0.0, largest);
}

/// Standard deviation with n - 1; 0 where there are no two values.
Tensor deviation_of(const Tensor& rows) {
  if (rows.size(1) < 2) return at::zeros({rows.size(0)}, rows.options());
  constexpr int64_t elements[] = {1};
  return std::get<0>(at::var_mean(rows, elements, /*correction=*/at::Scalar(1))).sqrt();
}

// --- pieces ----------------------------------------------------------------------------------------------------------

Tensor call_estimate(const Tensor& max, const Tensor& sd, int64_t breakpoints, std::string_view estimate) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("qstep::pwlq_estimate", "")
                             .typed<Tensor(const Tensor&, const Tensor&, int64_t, std::string_view)>();
  return op.call(max, sd, breakpoints, estimate);
}

Tensor call_quantize(const Tensor& w, const Tensor& start, const Tensor& step, int64_t bit_width, OptionalAxis axis) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("qstep::pwlq_quantize", "")
                             .typed<Tensor(const Tensor&, const Tensor&, const Tensor&, int64_t, OptionalAxis)>();
  return op.call(w, start, step, bit_width, axis);
}

/// Calls visit(weights, largest magnitude, index) for each row of CPU memory; threads share the rows.
template <class Visit>
void for_each_row(const Tensor& rows, const Tensor& largest, Visit visit) {
  const Tensor host = rows.to(at::kCPU).contiguous();
  const Tensor host_largest = largest.to(at::kCPU).contiguous();
  const auto length = static_cast<size_t>(host.size(1));
  at::parallel_for(0, host.size(0), 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      visit(std::span(read<double>(host) + static_cast<size_t>(i) * length, length), read<double>(host_largest)[i], i);
    }
  });
}

/// Breakpoints [channels, count] in float64.
Tensor estimated_breakpoints(const Tensor& rows, const Tensor& largest, const Settings& settings) {
  const bool search = settings.estimate == "search";
  const Tensor found =
      call_estimate(largest, deviation_of(rows), settings.breakpoints, search ? "gaussian" : settings.estimate);
  if (!search) return found;
  Tensor searched = found.to(at::kCPU).contiguous();
  for_each_row(rows, largest, [&](std::span<const double> weights, double max, int64_t channel) {
    const std::span<double> target(write<double>(searched) + channel * settings.breakpoints,
                                   static_cast<size_t>(settings.breakpoints));
    if (max > 0.0) search_breakpoints(weights, max, settings.bit_width, settings.scheme, target);
  });
  return searched.to(rows.device());
}

/// Throws unless 0 < p_1 < ... < p_n < max|w| in every channel of a CPU tensor.
void check_breakpoints(std::string_view op, const Tensor& breakpoints, const Tensor& largest) {
  const Tensor values = breakpoints.contiguous();
  for (int64_t channel = 0; channel < values.size(0); ++channel) {
    const double max = read<double>(largest)[channel];
    double before = 0.0;
    for (int64_t l = 0; l < values.size(1); ++l) {
      const double p = read<double>(values)[channel * values.size(1) + l];
      require(std::isfinite(p) && p > before && (p < max || max == 0.0),
              "{}: breakpoint must be above {} and below the largest magnitude of w, {} (channel {}), got {}", op,
              before, max, channel, p);
      before = p;
    }
  }
}

/// A channelwise partition: [channels, count] breakpoints, [channels] largest magnitudes, and the [channels, count + 1]
/// starts and steps of the pieces; all float64.
struct Partition {
  Tensor rows;
  Tensor largest;
  Tensor breakpoints;
  Tensor start;
  Tensor step;
};

Partition partition_of(const Tensor& w, const OptionalTensor& breakpoint, const Settings& settings) {
  Partition result;
  result.rows = rows_of(w, settings.axis);
  result.largest = largest_of(settings.op, result.rows);
  const int64_t channels = result.rows.size(0);
  if (breakpoint) {
    result.breakpoints = breakpoint->detach().to(at::kDouble).reshape({channels, settings.breakpoints});
    if (w.device().is_cpu()) check_breakpoints(settings.op, result.breakpoints, result.largest);
  } else {
    result.breakpoints = estimated_breakpoints(result.rows, result.largest, settings);
  }
  const Tensor zero = at::zeros({channels, 1}, result.largest.options());
  const Tensor last = result.breakpoints.slice(1, settings.breakpoints - 1);
  const Tensor end = at::where(result.largest.unsqueeze(1) > 0.0, result.largest.unsqueeze(1), 2.0 * last);
  result.start = at::cat({zero, result.breakpoints}, 1);
  const Tensor width = at::cat({result.breakpoints, end}, 1) - result.start;
  result.step = width / static_cast<double>(largest_magnitude(settings.bit_width));
  result.step.select(1, 0).copy_(result.breakpoints.select(1, 0) /
                                 first_piece_steps(settings.scheme, settings.bit_width));
  return result;
}

// --- bias correction -------------------------------------------------------------------------------------------------

/// w' = factor * w_hat + constant, one of each per channel, float64.
struct AffineCorrection {
  Tensor factor;
  Tensor constant;
};

AffineCorrection correction_of(const Partition& partition, const Tensor& quantized_rows, Correction correction) {
  constexpr int64_t elements[] = {1};
  const auto [variance, mean] = at::var_mean(partition.rows, elements, /*correction=*/at::Scalar(0));
  const auto [quantized_variance, quantized_mean] = at::var_mean(quantized_rows, elements, at::Scalar(0));
  const Tensor sd = variance.sqrt();
  const Tensor quantized_sd = quantized_variance.sqrt();
  // All but constant, before or after: the ratio would be one of rounding errors.
  const Tensor floor = partition.largest * 0x1p-20;
  const Tensor factor = at::where((sd > floor).logical_and_(quantized_sd > floor), sd / (quantized_sd + 1e-12), 1.0);
  return {factor, correction == Correction::repo ? (mean - quantized_mean) * factor : mean - quantized_mean * factor};
}

// --- the ops ---------------------------------------------------------------------------------------------------------

constexpr std::string_view quantize_name = "pwlq";
constexpr std::string_view breakpoint_name = "pwlq_breakpoint";
constexpr std::string_view encode_name = "pwlq_encode";
constexpr std::string_view code_book_name = "pwlq_code_book";
constexpr std::string_view range_name = "top_k_range";

Tensor pwlq(const Tensor& w, const OptionalTensor& breakpoint, int64_t bit_width, OptionalAxis axis,
            std::string_view estimate, int64_t breakpoints, std::string_view scheme, std::string_view bias_correction) {
  const Settings settings =
      checked_settings(quantize_name, w, breakpoint, bit_width, axis, estimate, breakpoints, scheme, bias_correction);
  if (w.numel() == 0) return at::empty_like(w);
  const Partition partition = partition_of(w, breakpoint, settings);
  const Tensor values = call_quantize(w, partition.start, partition.step, bit_width, axis);
  if (settings.correction == Correction::none) return values;
  const auto [factor, constant] = correction_of(partition, rows_of(values, axis), settings.correction);
  return (values.to(at::kDouble) * along(factor, w, axis) + along(constant, w, axis)).to(w.scalar_type());
}

Tensor pwlq_breakpoint(const Tensor& w, int64_t bit_width, OptionalAxis axis, std::string_view estimate,
                       int64_t breakpoints, std::string_view scheme) {
  const Settings settings =
      checked_settings(breakpoint_name, w, std::nullopt, bit_width, axis, estimate, breakpoints, scheme, "none");
  const Tensor rows = rows_of(w, axis);
  const Tensor found =
      estimated_breakpoints(rows, largest_of(breakpoint_name, rows), settings).to(compute_dtype(w.scalar_type()));
  std::vector<int64_t> shape;
  if (axis) shape.push_back(rows.size(0));
  if (breakpoints > 1) shape.push_back(breakpoints);
  return found.reshape(shape);
}

Codes pwlq_encode(const Tensor& w, const OptionalTensor& breakpoint, int64_t bit_width, OptionalAxis axis,
                  std::string_view estimate, int64_t breakpoints, std::string_view scheme,
                  std::string_view bias_correction) {
  const Settings settings =
      checked_settings(encode_name, w, breakpoint, bit_width, axis, estimate, breakpoints, scheme, bias_correction);
  const Tensor host = w.detach().to(at::kCPU, at::kFloat);
  const OptionalTensor host_breakpoint = breakpoint ? OptionalTensor(breakpoint->to(at::kCPU)) : std::nullopt;
  const Partition partition = partition_of(host, host_breakpoint, settings);
  const Memory memory = memory_of(host.contiguous(), partition.start, partition.step, axis);
  Tensor region = at::empty_like(memory.w, memory.w.options().dtype(at::kByte));
  Tensor magnitude = at::empty_like(region);
  Tensor negative = at::empty_like(region, region.options().dtype(at::kBool));
  const Encode<float> element{operands_of<float>(memory, bit_width), write<uint8_t>(region), write<uint8_t>(magnitude),
                              write<bool>(negative)};
  at::parallel_for(0, memory.tiling.tiles(), memory.tiling.grain(),
                   [&](int64_t first, int64_t last) { encode(element, memory.tiling, first, last); });

  Tensor start = partition.start;
  Tensor step = partition.step;
  Tensor constant = at::zeros_like(partition.largest);
  if (settings.correction != Correction::none && w.numel() > 0) {
    const Tensor values = call_quantize(host, partition.start, partition.step, bit_width, axis);
    const auto [factor, shift] = correction_of(partition, rows_of(values, axis), settings.correction);
    start = start * factor.unsqueeze(1);
    step = step * factor.unsqueeze(1);
    constant = shift;
  }
  const auto result = [&](const Tensor& t) { return t.to(w.device()); };
  return {result(region),
          result(magnitude),
          result(negative),
          result(start.t().contiguous()),
          result(step.t().contiguous()),
          result(constant)};
}

/// Levels that one code book has: piece 0 counts zero once, neighbours of the paper's scheme share their border.
int64_t level_count(const Settings& settings) {
  const int64_t largest = largest_magnitude(settings.bit_width);
  const int64_t borders = settings.scheme == Scheme::repo ? 1 : 0;
  return 2 * (largest * (settings.breakpoints + 1) + borders) + 1;
}

void check_level_count(const Settings& settings) {
  require(level_count(settings) <= 256,
          "{}: a code book has at most 256 levels, got {} from bit_width {} and {} breakpoints; use piecewise codes",
          settings.op, level_count(settings), settings.bit_width, settings.breakpoints);
}

CodeBook pwlq_code_book(const Tensor& w, const OptionalTensor& breakpoint, int64_t bit_width, OptionalAxis axis,
                        std::string_view estimate, int64_t breakpoints, std::string_view scheme,
                        std::string_view bias_correction) {
  const Settings settings =
      checked_settings(code_book_name, w, breakpoint, bit_width, axis, estimate, breakpoints, scheme, bias_correction);
  check_level_count(settings);
  const Partition partition = partition_of(w, breakpoint, settings);
  const int64_t channels = partition.rows.size(0);
  const int64_t length = partition.rows.size(1);
  const auto cpu = partition.rows.options().device(at::kCPU);
  Tensor unit = at::empty({channels}, cpu);
  Tensor level = at::empty({channels, length}, cpu);
  Tensor levels = at::empty({channels, level_count(settings)}, cpu);
  const Tensor host_breakpoints = partition.breakpoints.to(at::kCPU).contiguous();
  for_each_row(partition.rows, partition.largest, [&](std::span<const double> weights, double max, int64_t channel) {
    const std::span<const double> p(read<double>(host_breakpoints) + channel * settings.breakpoints,
                                    static_cast<size_t>(settings.breakpoints));
    const CommonGrid grid =
        snap_to_common_grid(weights, max > 0.0 ? max : 2.0 * p.back(), bit_width, settings.scheme, p);
    const Pieces<double> pieces = pieces_of(grid, p.size(), bit_width);
    write<double>(unit)[channel] = grid.unit;
    for (int64_t i = 0; i < length; ++i) {
      const Code<double> code = encode(weights[static_cast<size_t>(i)], pieces);
      const auto piece = static_cast<size_t>(code.piece);
      const double magnitude = grid.start[piece] + grid.step[piece] * code.magnitude;
      write<double>(level)[channel * length + i] = weights[static_cast<size_t>(i)] < 0.0 ? 0.0 - magnitude : magnitude;
    }
    const std::vector<int32_t> all = levels_of(grid, p.size(), bit_width);
    std::copy(all.begin(), all.end(), write<double>(levels) + channel * levels.size(1));
  });
  unit = unit.to(w.device());
  level = level.to(w.device());
  levels = levels.to(w.device());
  if (settings.correction != Correction::none && length > 0) {
    const auto [factor, constant] = correction_of(partition, unit.unsqueeze(1) * level, settings.correction);
    unit = unit * factor;
    const Tensor shift = (constant / unit).round_().unsqueeze(1);  // a constant off the grid would not be one integer
    level = level + shift;
    levels = levels + shift;
  }
  const at::ScalarType dtype = compute_dtype(w.scalar_type());
  unit = unit.to(dtype);
  const Tensor moved = axis ? w.movedim(*axis, 0) : w;
  const Tensor values = (unit.unsqueeze(1) * level.to(dtype)).reshape(moved.sizes());
  return {(axis ? values.movedim(0, *axis) : values).to(w.scalar_type()), axis ? unit : unit.reshape({}),
          levels.to(at::kShort)};
}

/// The mean of the two middle ones of an even number, as a median is.
Tensor median_of(const Tensor& values) {
  const Tensor sorted = std::get<0>(values.sort());
  const int64_t n = sorted.size(0);
  return (sorted.select(0, (n - 1) / 2) + sorted.select(0, n / 2)) * 0.5;
}

void check_range(const Tensor& x, int64_t k) {
  check_input(range_name, x, std::nullopt);
  require(k >= 1, "{}: k must be at least 1, got {}", range_name, k);
  require(x.sym_numel() > 0, "{}: x must not be empty, got shape {}", range_name, c10::str(x.sym_sizes()));
}

TwoTensors top_k_range(const Tensor& x, int64_t k) {
  check_range(x, k);
  const Tensor flat = x.detach().reshape({-1}).to(compute_dtype(x.scalar_type()));
  const int64_t count = std::min(k, flat.size(0));
  const Tensor largest = std::get<0>(flat.topk(count, 0, /*largest=*/true));
  const Tensor smallest = std::get<0>(flat.topk(count, 0, /*largest=*/false));
  return {median_of(smallest), median_of(largest)};
}

// --- Meta ------------------------------------------------------------------------------------------------------------

c10::SymInt channels_of(const Tensor& w, OptionalAxis axis) { return axis ? w.sym_size(*axis) : c10::SymInt(1); }

Tensor quantize_meta(const Tensor& w, const Tensor& start, const Tensor& step, int64_t bit_width, OptionalAxis axis) {
  check_pieces(w, start, step, bit_width, axis);
  return at::empty_like(w);
}

Tensor estimate_meta(const Tensor& max, const Tensor& sd, int64_t breakpoints, std::string_view estimate) {
  check_statistics(max, sd, breakpoints);
  estimate_from_name("pwlq_estimate", estimate);
  return at::empty_symint({max.sym_size(0), breakpoints}, max.options());
}

Tensor pwlq_meta(const Tensor& w, const OptionalTensor& breakpoint, int64_t bit_width, OptionalAxis axis,
                 std::string_view estimate, int64_t breakpoints, std::string_view scheme,
                 std::string_view bias_correction) {
  checked_settings(quantize_name, w, breakpoint, bit_width, axis, estimate, breakpoints, scheme, bias_correction);
  return at::empty_like(w);
}

Tensor breakpoint_meta(const Tensor& w, int64_t bit_width, OptionalAxis axis, std::string_view estimate,
                       int64_t breakpoints, std::string_view scheme) {
  checked_settings(breakpoint_name, w, std::nullopt, bit_width, axis, estimate, breakpoints, scheme, "none");
  std::vector<c10::SymInt> shape;
  if (axis) shape.push_back(w.sym_size(*axis));
  if (breakpoints > 1) shape.emplace_back(breakpoints);
  return at::empty_symint(shape, w.options().dtype(compute_dtype(w.scalar_type())));
}

Codes encode_meta(const Tensor& w, const OptionalTensor& breakpoint, int64_t bit_width, OptionalAxis axis,
                  std::string_view estimate, int64_t breakpoints, std::string_view scheme,
                  std::string_view bias_correction) {
  const Settings settings =
      checked_settings(encode_name, w, breakpoint, bit_width, axis, estimate, breakpoints, scheme, bias_correction);
  const auto bytes = w.options().dtype(at::kByte);
  const auto reals = w.options().dtype(at::kDouble);
  const c10::SymInt channels = channels_of(w, axis);
  const std::vector<c10::SymInt> pieces{settings.breakpoints + 1, channels};
  return {at::empty_symint(w.sym_sizes(), bytes),
          at::empty_symint(w.sym_sizes(), bytes),
          at::empty_symint(w.sym_sizes(), w.options().dtype(at::kBool)),
          at::empty_symint(pieces, reals),
          at::empty_symint(pieces, reals),
          at::empty_symint({channels}, reals)};
}

CodeBook code_book_meta(const Tensor& w, const OptionalTensor& breakpoint, int64_t bit_width, OptionalAxis axis,
                        std::string_view estimate, int64_t breakpoints, std::string_view scheme,
                        std::string_view bias_correction) {
  const Settings settings =
      checked_settings(code_book_name, w, breakpoint, bit_width, axis, estimate, breakpoints, scheme, bias_correction);
  check_level_count(settings);
  std::vector<c10::SymInt> scale_shape;
  if (axis) scale_shape.push_back(w.sym_size(*axis));
  return {at::empty_symint(w.sym_sizes(), w.options()),
          at::empty_symint(scale_shape, w.options().dtype(compute_dtype(w.scalar_type()))),
          at::empty_symint({channels_of(w, axis), level_count(settings)}, w.options().dtype(at::kShort))};
}

TwoTensors range_meta(const Tensor& x, int64_t k) {
  check_range(x, k);
  const auto options = x.options().dtype(compute_dtype(x.scalar_type()));
  return {at::empty({}, options), at::empty({}, options)};
}

// --- CPU -------------------------------------------------------------------------------------------------------------

Tensor quantize_cpu(const Tensor& w, const Tensor& start, const Tensor& step, int64_t bit_width, OptionalAxis axis) {
  check_pieces(w, start, step, bit_width, axis);
  const Memory memory = memory_of(w, start, step, axis);
  Tensor output = output_like(memory.w);
  visit_dtype(w.scalar_type(), [&]<class T>(T) {
    const Operands<T> operands = operands_of<T>(memory, bit_width);
    T* const target = write<T>(output);
    at::parallel_for(0, memory.tiling.tiles(), memory.tiling.grain(),
                     [&](int64_t first, int64_t last) { quantize(operands, target, memory.tiling, first, last); });
  });
  return output;
}

Tensor estimate_cpu(const Tensor& max, const Tensor& sd, int64_t breakpoints, std::string_view estimate) {
  check_statistics(max, sd, breakpoints);
  const Tensor largest = max.contiguous();
  const Tensor deviation = sd.contiguous();
  Tensor found = at::empty({max.size(0), breakpoints}, max.options());
  const FromStatistics element{read<double>(largest), read<double>(deviation),
                               estimate_from_name("pwlq_estimate", estimate), static_cast<int32_t>(breakpoints),
                               write<double>(found)};
  at::parallel_for(0, max.size(0), 16, [&](int64_t first, int64_t last) {
    for (int64_t channel = first; channel < last; ++channel) element.apply(channel, element.grid(channel));
  });
  return found;
}

// --- autograd --------------------------------------------------------------------------------------------------------

#define QSTEP_PWLQ_PARAMETERS                                                                                         \
  const Tensor &w, const OptionalTensor &breakpoint, int64_t bit_width, OptionalAxis axis, std::string_view estimate, \
      int64_t breakpoints, std::string_view scheme, std::string_view bias_correction
#define QSTEP_PWLQ_ARGUMENTS w, breakpoint, bit_width, axis, estimate, breakpoints, scheme, bias_correction

Tensor call_pwlq(QSTEP_PWLQ_PARAMETERS) {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("qstep::pwlq", "").typed<decltype(pwlq)>();
  return op.call(QSTEP_PWLQ_ARGUMENTS);
}

Codes call_encode(QSTEP_PWLQ_PARAMETERS) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("qstep::pwlq_encode", "").typed<decltype(pwlq_encode)>();
  return op.call(QSTEP_PWLQ_ARGUMENTS);
}

CodeBook call_code_book(QSTEP_PWLQ_PARAMETERS) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("qstep::pwlq_code_book", "").typed<decltype(pwlq_code_book)>();
  return op.call(QSTEP_PWLQ_ARGUMENTS);
}

Tensor call_breakpoint(const Tensor& w, int64_t bit_width, OptionalAxis axis, std::string_view estimate,
                       int64_t breakpoints, std::string_view scheme) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("qstep::pwlq_breakpoint", "").typed<decltype(pwlq_breakpoint)>();
  return op.call(w, bit_width, axis, estimate, breakpoints, scheme);
}

TwoTensors call_range(const Tensor& x, int64_t k) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("qstep::top_k_range", "").typed<decltype(top_k_range)>();
  return op.call(x, k);
}

/// Straight through: no |w| is above the largest, so the gradient is 1 everywhere.
class StraightThrough : public torch::autograd::Function<StraightThrough> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* /*context*/, const Tensor& /*w*/,
                        const std::function<Tensor()>& quantize) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    return quantize();
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* /*context*/,
                                                 const torch::autograd::variable_list& grad_outputs) {
    return {grad_outputs[0], Tensor()};
  }
};

Tensor pwlq_autograd(QSTEP_PWLQ_PARAMETERS) {
  return StraightThrough::apply(w, [&] { return call_pwlq(QSTEP_PWLQ_ARGUMENTS); });
}

CodeBook code_book_autograd(QSTEP_PWLQ_PARAMETERS) {
  Tensor scale;
  Tensor levels;
  const Tensor values = StraightThrough::apply(w, [&] {
    Tensor quantized;
    std::tie(quantized, scale, levels) = call_code_book(QSTEP_PWLQ_ARGUMENTS);
    return quantized;
  });
  return {values, scale, levels};
}

Codes encode_autograd(QSTEP_PWLQ_PARAMETERS) {
  const at::AutoDispatchBelowADInplaceOrView without_gradient;
  return call_encode(QSTEP_PWLQ_ARGUMENTS);
}

#undef QSTEP_PWLQ_PARAMETERS
#undef QSTEP_PWLQ_ARGUMENTS

Tensor breakpoint_autograd(const Tensor& w, int64_t bit_width, OptionalAxis axis, std::string_view estimate,
                           int64_t breakpoints, std::string_view scheme) {
  const at::AutoDispatchBelowADInplaceOrView without_gradient;
  return call_breakpoint(w, bit_width, axis, estimate, breakpoints, scheme);
}

TwoTensors range_autograd(const Tensor& x, int64_t k) {
  const at::AutoDispatchBelowADInplaceOrView without_gradient;
  return call_range(x, k);
}

}  // namespace
}  // namespace qstep::methods::pwlq

namespace qstep::functional {

at::Tensor pwlq(const at::Tensor& w, const PwlqOptions& options) {
  return methods::pwlq::call_pwlq(w, options.breakpoint, options.bit_width, options.axis, options.estimate,
                                  options.breakpoints, options.scheme, options.bias_correction);
}

at::Tensor pwlq_breakpoint(const at::Tensor& w, const PwlqOptions& options) {
  return methods::pwlq::call_breakpoint(w, options.bit_width, options.axis, options.estimate, options.breakpoints,
                                        options.scheme);
}

PwlqCodes pwlq_encode(const at::Tensor& w, const PwlqOptions& options) {
  auto [region, magnitude, negative, start, step, constant] =
      methods::pwlq::call_encode(w, options.breakpoint, options.bit_width, options.axis, options.estimate,
                                 options.breakpoints, options.scheme, options.bias_correction);
  return {region, magnitude, negative, start, step, constant};
}

PwlqCodeBook pwlq_code_book(const at::Tensor& w, const PwlqOptions& options) {
  auto [values, scale, levels] =
      methods::pwlq::call_code_book(w, options.breakpoint, options.bit_width, options.axis, options.estimate,
                                    options.breakpoints, options.scheme, options.bias_correction);
  return {values, scale, levels};
}

std::tuple<at::Tensor, at::Tensor> top_k_range(const at::Tensor& x, int64_t k) {
  return methods::pwlq::call_range(x, k);
}

}  // namespace qstep::functional

#define QSTEP_PWLQ_SCHEMA                                                                                 \
  "(Tensor w, Tensor? breakpoint=None, *, int bit_width, int? axis=None, str estimate=\"gaussian\", int " \
  "breakpoints=1, str scheme=\"paper\", str bias_correction=\"none\") -> "

TORCH_LIBRARY_FRAGMENT(qstep, m) {
  m.def("pwlq" QSTEP_PWLQ_SCHEMA "Tensor");
  m.def("pwlq_encode" QSTEP_PWLQ_SCHEMA
        "(Tensor region, Tensor magnitude, Tensor negative, Tensor start, Tensor step, Tensor constant)");
  m.def("pwlq_code_book" QSTEP_PWLQ_SCHEMA "(Tensor values, Tensor scale, Tensor levels)");
  m.def(
      "pwlq_breakpoint(Tensor w, *, int bit_width, int? axis=None, str estimate=\"gaussian\", int breakpoints=1, str "
      "scheme=\"paper\") -> Tensor");
  m.def("pwlq_quantize(Tensor w, Tensor start, Tensor step, *, int bit_width, int? axis=None) -> Tensor");
  m.def("pwlq_estimate(Tensor max, Tensor sd, *, int breakpoints=1, str estimate=\"gaussian\") -> Tensor");
  m.def("top_k_range(Tensor x, *, int k=10) -> (Tensor min, Tensor max)");
}

TORCH_LIBRARY_IMPL(qstep, Meta, m) {
  m.impl("pwlq", qstep::methods::pwlq::pwlq_meta);
  m.impl("pwlq_encode", qstep::methods::pwlq::encode_meta);
  m.impl("pwlq_code_book", qstep::methods::pwlq::code_book_meta);
  m.impl("pwlq_breakpoint", qstep::methods::pwlq::breakpoint_meta);
  m.impl("pwlq_quantize", qstep::methods::pwlq::quantize_meta);
  m.impl("pwlq_estimate", qstep::methods::pwlq::estimate_meta);
  m.impl("top_k_range", qstep::methods::pwlq::range_meta);
}

TORCH_LIBRARY_IMPL(qstep, CompositeExplicitAutograd, m) {
  m.impl("pwlq", qstep::methods::pwlq::pwlq);
  m.impl("pwlq_encode", qstep::methods::pwlq::pwlq_encode);
  m.impl("pwlq_code_book", qstep::methods::pwlq::pwlq_code_book);
  m.impl("pwlq_breakpoint", qstep::methods::pwlq::pwlq_breakpoint);
  m.impl("top_k_range", qstep::methods::pwlq::top_k_range);
}

TORCH_LIBRARY_IMPL(qstep, CPU, m) {
  m.impl("pwlq_quantize", qstep::methods::pwlq::quantize_cpu);
  m.impl("pwlq_estimate", qstep::methods::pwlq::estimate_cpu);
}

TORCH_LIBRARY_IMPL(qstep, Autograd, m) {
  m.impl("pwlq", qstep::methods::pwlq::pwlq_autograd);
  m.impl("pwlq_encode", qstep::methods::pwlq::encode_autograd);
  m.impl("pwlq_code_book", qstep::methods::pwlq::code_book_autograd);
  m.impl("pwlq_breakpoint", qstep::methods::pwlq::breakpoint_autograd);
  m.impl("pwlq_quantize", torch::autograd::autogradNotImplementedFallback());
  m.impl("pwlq_estimate", torch::autograd::autogradNotImplementedFallback());
  m.impl("top_k_range", qstep::methods::pwlq::range_autograd);
}
