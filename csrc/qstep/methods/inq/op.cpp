// torch.ops.qstep.inq_quantize, inq_range, inq_partition and inq_fractions: schema, checks, Meta, CPU, autograd.
// Formulas: math.h.
#include "qstep/methods/inq/op.h"

#include <ATen/Parallel.h>
#include <ATen/core/Generator.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/randperm.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "qstep/methods/arguments.h"
#include "qstep/methods/functional.h"
#include "qstep/methods/inq/cpu.h"
#include "qstep/methods/inq/schedules.h"

namespace qstep::methods::inq {

using at::Tensor;
using OptionalGenerator = std::optional<at::Generator>;

void check_bit_width(std::string_view op, int64_t bit_width) {
  require(bit_width >= min_bit_width && bit_width <= max_bit_width, "{}: bit_width must be in [{}, {}], got {}", op,
          min_bit_width, max_bit_width, bit_width);
}

void check_quantize(const Tensor& w, const Tensor& n1, int64_t bit_width) {
  check_bit_width("inq_quantize", bit_width);
  check_input("inq_quantize", w, std::nullopt);
  require(at::isIntegralType(n1.scalar_type(), /*includeBool=*/false), "inq_quantize: n1 must be integer, got {}",
          c10::toString(n1.scalar_type()));
  check_parameter("inq_quantize", "n1", n1, w, std::nullopt);
}

Memory memory_of(const Tensor& w, const Tensor& n1) {
  const Tensor memory = dense(w);
  return {memory, n1.to(at::kInt), Tiling(channel_layout(memory, std::nullopt))};
}

namespace {

constexpr std::string_view quantize_name = "inq_quantize";
constexpr std::string_view range_name = "inq_range";
constexpr std::string_view partition_name = "inq_partition";

ExponentRange allowed_n1(const Tensor& w, int64_t bit_width) {
  return visit_dtype(w.scalar_type(),
                     [&]<class T>(T) { return allowed_n1(exponents_of<T>, static_cast<int32_t>(bit_width)); });
}

// --- inq_quantize ----------------------------------------------------------------------------------------------------

Tensor quantize_meta(const Tensor& w, const Tensor& n1, int64_t bit_width) {
  check_quantize(w, n1, bit_width);
  return at::empty_like(w);
}

Tensor quantize_cpu(const Tensor& w, const Tensor& n1, int64_t bit_width) {
  check_quantize(w, n1, bit_width);
  const ExponentRange allowed = allowed_n1(w, bit_width);
  const auto exponent = n1.item<int64_t>();
  require(exponent >= allowed.lowest && exponent <= allowed.highest,
          "{}: n1 must be in [{}, {}] for bit_width {} and {}, got {}", quantize_name, allowed.lowest, allowed.highest,
          bit_width, c10::toString(w.scalar_type()), exponent);
  const Memory memory = memory_of(w, n1);
  Tensor output = output_like(memory.w);
  visit_dtype(w.scalar_type(), [&]<class T>(T) {
    const Forward<T> element{read<T>(memory.w), read<int32_t>(memory.n1), static_cast<int32_t>(bit_width),
                             write<T>(output)};
    at::parallel_for(0, memory.tiling.tiles(), memory.tiling.grain(),
                     [&](int64_t first, int64_t last) { forward(element, memory.tiling, first, last); });
  });
  return output;
}

Tensor call_quantize(const Tensor& w, const Tensor& n1, int64_t bit_width) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("qstep::inq_quantize", "").typed<decltype(quantize_meta)>();
  return op.call(w, n1, bit_width);
}

/// Straight through: the gradient of w is that of w_hat, everywhere.
class Function : public torch::autograd::Function<Function> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* /*context*/, const Tensor& w, const Tensor& n1,
                        int64_t bit_width) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    return call_quantize(w, n1, bit_width);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* /*context*/,
                                                 const torch::autograd::variable_list& grad_outputs) {
    const Tensor none;
    return {grad_outputs[0], none, none};
  }
};

Tensor quantize_autograd(const Tensor& w, const Tensor& n1, int64_t bit_width) {
  return Function::apply(w, n1, bit_width);
}

// --- inq_range -------------------------------------------------------------------------------------------------------

void check_range(const Tensor& w, int64_t bit_width, std::string_view rule) {
  check_bit_width(range_name, bit_width);
  check_input(range_name, w, std::nullopt);
  require(rule == "max" || rule == "mse", "{}: rule must be 'max' or 'mse', got '{}'", range_name, rule);
}

Tensor range_meta(const Tensor& w, int64_t bit_width, std::string_view rule) {
  check_range(w, bit_width, rule);
  return at::empty({}, w.options().dtype(at::kInt));
}

/// Of n1 and the exponents below it that are allowed, the one with the least squared error; the largest of several.
int32_t least_error_exponent(const Tensor& w, int64_t bit_width, int32_t n1) {
  constexpr int32_t candidates = 8;
  const int32_t lowest = std::max(allowed_n1(w, bit_width).lowest, n1 - candidates + 1);
  const Tensor exact = w.to(at::kDouble);
  double least = std::numeric_limits<double>::infinity();
  int32_t best = n1;
  for (int32_t candidate = n1; candidate >= lowest; --candidate) {
    const Tensor exponent = at::full({}, candidate, w.options().dtype(at::kInt));
    const auto error = call_quantize(exact, exponent, bit_width).sub(exact).square().sum().item<double>();
    if (error < least) {
      least = error;
      best = candidate;
    }
  }
  return best;
}

Tensor range(const Tensor& w, int64_t bit_width, std::string_view rule) {
  check_range(w, bit_width, rule);
  const double s = w.numel() == 0 ? 0.0 : w.abs().max().item<double>();
  require(std::isfinite(s), "{}: w must be finite, got {}", range_name, s);
  int32_t n1 = largest_exponent(s, allowed_n1(w, bit_width));
  if (rule == "mse" && s > 0) n1 = least_error_exponent(w, bit_width, n1);
  return at::full({}, n1, w.options().dtype(at::kInt));
}

Tensor call_range(const Tensor& w, int64_t bit_width, std::string_view rule) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("qstep::inq_range", "").typed<decltype(range_meta)>();
  return op.call(w, bit_width, rule);
}

Tensor range_autograd(const Tensor& w, int64_t bit_width, std::string_view rule) {
  const at::AutoDispatchBelowADInplaceOrView without_gradient;
  return call_range(w, bit_width, rule);
}

// --- inq_partition ---------------------------------------------------------------------------------------------------

void check_partition(const Tensor& w, const Tensor& frozen, double fraction, std::string_view strategy) {
  check_input(partition_name, w, std::nullopt);
  require(frozen.scalar_type() == at::kBool && frozen.sym_sizes() == w.sym_sizes() && frozen.device() == w.device(),
          "{}: frozen must be Bool, of the shape and on the device of w, {} {}, got {} {} {}", partition_name,
          c10::str(w.sym_sizes()), w.device().str(), c10::toString(frozen.scalar_type()), c10::str(frozen.sym_sizes()),
          frozen.device().str());
  check_fractions(partition_name, {fraction});
  require(strategy == "magnitude" || strategy == "random", "{}: strategy must be 'magnitude' or 'random', got '{}'",
          partition_name, strategy);
}

Tensor partition_meta(const Tensor& w, const Tensor& frozen, double fraction, std::string_view strategy,
                      const OptionalGenerator& /*generator*/) {
  check_partition(w, frozen, fraction, strategy);
  return at::empty_like(frozen, at::MemoryFormat::Contiguous);
}

Tensor partition(const Tensor& w, const Tensor& frozen, double fraction, std::string_view strategy,
                 const OptionalGenerator& generator) {
  check_partition(w, frozen, fraction, strategy);
  const at::NoGradGuard no_grad;
  require(at::isfinite(w).all().item<bool>(), "{}: w must be finite, got NaN or infinity", partition_name);
  const int64_t elements = w.numel();
  const auto before = frozen.sum().item<int64_t>();
  const auto wanted = static_cast<int64_t>(std::floor(fraction * static_cast<double>(elements) + 0.5));
  require(wanted >= before, "{}: fraction must not be below the share that is frozen already, {} of {} weights, got {}",
          partition_name, before, elements, fraction);
  Tensor next = frozen.reshape({-1}).clone();  // in the order of indices, whatever the layout of w
  Tensor order;
  if (strategy == "magnitude") {
    const Tensor magnitude = w.reshape({-1}).abs().masked_fill_(next, -1);
    order = at::argsort(magnitude, /*stable=*/true, /*dim=*/0, /*descending=*/true);
  } else {
    const Tensor trainable = at::nonzero(next.logical_not()).reshape({-1});
    const at::Device device = generator ? generator->device() : at::Device(at::kCPU);
    const auto options = at::TensorOptions().dtype(at::kLong).device(device);
    order = trainable.index_select(0, at::randperm(elements - before, generator, options).to(w.device()));
  }
  next.index_fill_(0, order.slice(0, 0, wanted - before), true);
  return next.reshape(frozen.sizes());
}

Tensor call_partition(const Tensor& w, const Tensor& frozen, double fraction, std::string_view strategy,
                      const OptionalGenerator& generator) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("qstep::inq_partition", "").typed<decltype(partition_meta)>();
  return op.call(w, frozen, fraction, strategy, generator);
}

Tensor partition_autograd(const Tensor& w, const Tensor& frozen, double fraction, std::string_view strategy,
                          const OptionalGenerator& generator) {
  const at::AutoDispatchBelowADInplaceOrView without_gradient;
  return call_partition(w, frozen, fraction, strategy, generator);
}

}  // namespace
}  // namespace qstep::methods::inq

namespace qstep::functional {

at::Tensor inq_quantize(const at::Tensor& w, const InqQuantizeOptions& options) {
  const at::Tensor n1 = options.n1 ? *options.n1 : methods::inq::call_range(w, options.bit_width, "max");
  return methods::inq::call_quantize(w, n1, options.bit_width);
}

InqRange inq_range(const at::Tensor& w, int64_t bit_width, std::string_view rule) {
  const auto n1 = methods::inq::call_range(w, bit_width, rule).item<int32_t>();
  return {n1, methods::inq::smallest_exponent(n1, static_cast<int32_t>(bit_width))};
}

at::Tensor inq_partition(const at::Tensor& w, const at::Tensor& frozen, double fraction,
                         const InqPartitionOptions& options) {
  return methods::inq::call_partition(w, frozen, fraction, options.strategy, options.generator);
}

std::vector<double> inq_fractions(std::string_view preset) { return methods::inq::fractions_of(preset); }

}  // namespace qstep::functional

TORCH_LIBRARY_FRAGMENT(qstep, m) {
  m.def("inq_quantize(Tensor w, Tensor n1, *, int bit_width) -> Tensor");
  m.def("inq_range(Tensor w, *, int bit_width, str rule=\"max\") -> Tensor");
  m.def(
      "inq_partition(Tensor w, Tensor frozen, *, float fraction, str strategy=\"magnitude\", Generator? "
      "generator=None) -> Tensor");
  m.def("inq_fractions(str preset) -> float[]", &qstep::functional::inq_fractions);
}

TORCH_LIBRARY_IMPL(qstep, Meta, m) {
  m.impl("inq_quantize", qstep::methods::inq::quantize_meta);
  m.impl("inq_range", qstep::methods::inq::range_meta);
  m.impl("inq_partition", qstep::methods::inq::partition_meta);
}

TORCH_LIBRARY_IMPL(qstep, CPU, m) { m.impl("inq_quantize", qstep::methods::inq::quantize_cpu); }

TORCH_LIBRARY_IMPL(qstep, CompositeExplicitAutograd, m) {
  m.impl("inq_range", qstep::methods::inq::range);
  m.impl("inq_partition", qstep::methods::inq::partition);
}

TORCH_LIBRARY_IMPL(qstep, Autograd, m) {
  m.impl("inq_quantize", qstep::methods::inq::quantize_autograd);
  m.impl("inq_range", qstep::methods::inq::range_autograd);
  m.impl("inq_partition", qstep::methods::inq::partition_autograd);
}
