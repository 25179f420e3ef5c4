#pragma once
// Quantizers as modules: the parameters, first values and current grid of a method, for weights and for activations. C++ twin of
// python/qstep/quantizers/; both call the same operators.
#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "qstep/core/grid.h"
#include "qstep/ir/real_weight.h"

namespace qstep::methods {

using at::Tensor;

/// A contiguous copy of t on the CPU, where it is not that already.
Tensor on_host(const Tensor& t, at::ScalarType dtype);

/// The elements of a contiguous tensor on the CPU, of type T.
template <class T>
std::span<const T> span_of(const Tensor& t) {
  return {t.const_data_ptr<T>(), static_cast<size_t>(t.numel())};
}

struct CodeRange {
  int64_t min;
  int64_t max;
};

// The codes of a bit width. Throw Error naming `owner` unless it is in [2, 8].
CodeRange unsigned_codes(std::string_view owner, int64_t bit_width);   ///< [0, 2^b - 1]
CodeRange signed_codes(std::string_view owner, int64_t bit_width);     ///< [-2^(b - 1), 2^(b - 1) - 1]
CodeRange symmetric_codes(std::string_view owner, int64_t bit_width);  ///< the same without the lowest one

/// What weight and activation quantizers share: the code range and whether scales hold values yet.
class Quantizer : public torch::nn::Module {
 public:
  Quantizer(std::string name, int64_t bit_width, CodeRange codes);

  int64_t bit_width() const { return bit_width_; }
  int64_t quant_min() const { return codes_.min; }
  int64_t quant_max() const { return codes_.max; }

  /// After calibration, or loaded from an archive.
  bool ready() const;
  /// Throws Error naming the quantizer unless ready().
  void require_ready() const;

 protected:
  void set_ready();
  /// Throws Error naming the quantizer and `what` where a value is NaN or infinite.
  void require_finite(std::string_view what, const Tensor& values) const;

 private:
  int64_t bit_width_;
  CodeRange codes_;
  Tensor initialized_;  // buffer
};

/// Weights on their grid: values = scale * (code - zero_point). on_grid is false where that does not hold: while a method still trains
/// some of the weights as real numbers, or where levels are not evenly spaced. Layers then convolve the values instead of codes, and scale
/// has no part in it.
struct QuantizedWeight {
  Tensor values;
  Tensor scale;       ///< [] or [out]
  Tensor zero_point;  ///< integer-valued, one element
  bool on_grid = true;
  Tensor source = {};  ///< the weights that were quantized, where lowered() needs them
};

/// Weights as ir::Builder takes them; its spans refer to the tensors.
struct LoweredWeight {
  std::vector<Tensor> memory;
  ir::RealWeight description;
};

class WeightQuantizer : public Quantizer {
 public:
  using Quantizer::Quantizer;
  /// Sets the first scales. weight: [out, ...], finite; throws Error otherwise.
  virtual void initialize(const Tensor& weight) = 0;
  virtual QuantizedWeight forward(const Tensor& weight) = 0;
  /// What forward() gave, for ir::Builder: a uniform grid, unless a method says otherwise.
  virtual LoweredWeight lowered(const QuantizedWeight& weight) const;
  /// Whether batch norm may be multiplied into the weights before they are quantized.
  virtual bool foldable() const { return true; }
};

class ActivationQuantizer : public Quantizer {
 public:
  using Quantizer::Quantizer;

  virtual Tensor scale() const = 0;       ///< [], > 0
  virtual Tensor zero_point() const = 0;  ///< [], integer-valued
  virtual Tensor offset() const = 0;      ///< [], real-valued
  /// What the code nearest to real zero stands for; nothing where that is 0 by construction (core::residual).
  virtual std::optional<Tensor> residual() const { return std::nullopt; }
  /// Whether the last forward pass quantized (IAO may start late).
  virtual bool active() const { return true; }

  // For networks whose tensors hold real values / eta (F8Net); the defaults are those of all other methods.

  /// Real value of what the tensor holds as 1.0, shape [], differentiable; nothing for 1.
  virtual std::optional<Tensor> eta() const { return std::nullopt; }
  /// eta / other.eta() of tensors that were joined, a power of two; nothing for 1.
  virtual std::optional<Tensor> ratio_to(const ActivationQuantizer& /*other*/) const { return std::nullopt; }
  /// Other quantizers whose parameters eta depends on.
  virtual std::vector<std::shared_ptr<ActivationQuantizer>> depends_on() const { return {}; }
  /// Called in training before a layer computes what this quantizer will quantize: formats change here, and only here.
  virtual void advance() {}
  /// An addition connects the two tensors. Throws Error where the method does not define that.
  virtual void join(const std::shared_ptr<ActivationQuantizer>& /*other*/) {}
  /// The tensor is made of another's values alone, which stand for `compensation` times as much in it.
  virtual void follow(const std::shared_ptr<ActivationQuantizer>& /*source*/, double /*compensation*/) {}
  /// The tensor enters or leaves the network: eta is 1. Throws Error where it cannot be.
  virtual void hold_real_values(bool /*entering*/) {}

  /// x on the grid. While calibrating: x itself, part of which is kept.
  Tensor forward(const Tensor& x);

  virtual void start_calibration();
  /// Throws Error where no tensor arrived since the start.
  virtual void finish_calibration();
  void cancel_calibration() {
    calibrating_ = false;
    samples_.clear();
  }
  bool calibrating() const { return calibrating_; }

  /// Whether values lie on a grid that the integer network knows: not so for FloatActivation.
  virtual bool has_grid() const { return true; }
  /// The grid as the integer network knows it.
  core::Grid grid() const;
  /// uint8 codes of x, counted from quant_min; and back.
  Tensor encode(const Tensor& x) const;
  Tensor decode(const Tensor& codes) const;

 protected:
  virtual Tensor quantize(const Tensor& x) = 0;
  /// What calibration keeps of a batch, on the CPU in float32: here an evenly spaced part of x and its extremes. x is finite, not empty.
  virtual Tensor sample(const Tensor& x) const;
  virtual void initialize(const Tensor& samples) = 0;  // first grid, from the batches' samples, one after the other

 private:
  bool calibrating_ = false;
  std::vector<Tensor> samples_;
};

/// Activations that stay in floating point, to train and to compare with: eval() simulates, and grid() throws Error.
class FloatActivation : public ActivationQuantizer {
 public:
  FloatActivation();
  Tensor scale() const override { return one_; }
  Tensor zero_point() const override { return zero_; }
  Tensor offset() const override { return zero_; }
  bool active() const override { return false; }
  bool has_grid() const override { return false; }

 protected:
  Tensor quantize(const Tensor& x) override { return x; }
  void initialize(const Tensor& /*samples*/) override {}

 private:
  Tensor one_;  // buffers
  Tensor zero_;
};

/// A scale that cannot become 0 or negative: the raw parameter is stored, max(|raw|, eps) is used, eps = 2^-24 of the first value.
class LearnedScale : public torch::nn::Module {
 public:
  explicit LearnedScale(at::IntArrayRef shape);
  void set(const Tensor& scale);
  Tensor value() const { return raw_.abs().clamp_min(eps_); }

 private:
  Tensor raw_;  // parameter
  Tensor eps_;  // buffer
};

}  // namespace qstep::methods
