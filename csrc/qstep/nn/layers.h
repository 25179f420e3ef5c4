#pragma once
// Quantized layers as torch::nn modules: C++ twin of python/qstep/nn/ (docs/architecture.md tells how a layer computes).
//
// Every layer takes and returns float tensors whose values lie on a grid. A layer with parameters knows the quantizer that its input went
// through, so layers are made in the order of the network, each from the one before:
//
//   input = register_module("input", qstep::nn::Quantize(config));
//   conv  = register_module("conv", qstep::nn::Conv2d(Conv2dOptions(1, 8, 3).padding(1).relu(true), config, input->output()));
//   fc    = register_module("fc", qstep::nn::Linear(LinearOptions(8 * 28 * 28, 10).last(true), config, conv->output()));
//
//   forward: fc(conv(input(x)).flatten(1))      (pooling, view and the like keep the grid)
//   qstep::convert: the same calls once more, on a graph builder
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <array>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "qstep/engine/network.h"
#include "qstep/ir/builder.h"
#include "qstep/nn/layer_ops.h"
#include "qstep/nn/qconfig.h"

namespace qstep::nn {

using methods::ActivationQuantizer;
using methods::QuantizedWeight;
using methods::WeightQuantizer;
using QuantizerPtr = std::shared_ptr<ActivationQuantizer>;

/// What all layers share: the grids of inputs and output, a fused clamp (ReLU, ReLU6), the three forward passes.
class Layer : public torch::nn::Module {
 public:
  /// Grid of the result; null for a last layer, whose result is real-valued.
  const QuantizerPtr& output() const { return output_; }

  Tensor forward(const Tensor& x) { return forward(std::vector<Tensor>{x}); }
  /// Training, and eval() with gradients: the simulated layer. eval() without gradients: the integer kernels. Calibrating: the float layer.
  Tensor forward(const std::vector<Tensor>& inputs);

  /// What the integer engine makes of these inputs: uint8 codes, or int32 accumulators where there is no output quantizer.
  Tensor integer_codes(const std::vector<Tensor>& inputs);

  /// Appends the layer to `builder`; returns the value it makes.
  virtual ir::ValueId lower(ir::Builder& builder, const std::string& name, const std::vector<ir::ValueId>& inputs) = 0;

  /// Before the first batch of calibration: first scales of the weights.
  virtual void initialize_weights() {}
  void set_calibrating(bool calibrating) { calibrating_ = calibrating; }

  /// Keeps what integer_codes gives in forward, for qstep::compare.
  void set_recording(bool recording) {
    recording_ = recording;
    recorded_.reset();
  }
  const std::optional<Tensor>& recorded() const { return recorded_; }

 protected:
  Layer(std::string name, std::vector<QuantizerPtr> inputs, QuantizerPtr output, double clamp_low, double clamp_high,
        core::RequantPolicy policy);

  /// The layer before its fused clamp and output quantizer.
  virtual Tensor simulate(const std::vector<Tensor>& inputs) = 0;
  virtual Tensor in_float(const std::vector<Tensor>& inputs) { return simulate(inputs); }

  const ActivationQuantizer& input(size_t i = 0) const { return *inputs_[i]; }
  const std::vector<QuantizerPtr>& inputs() const { return inputs_; }
  core::RequantPolicy policy() const { return policy_; }
  bool calibrating() const { return calibrating_; }
  std::optional<ir::Target> target() const;

 private:
  bool all_have_grids() const;  // whether the layer exists as integers
  const engine::IntegerNetwork& lowered(const std::vector<Tensor>& codes);
  Tensor clamped(const Tensor& y) const;

  /// The engine of the layer and what it was lowered from: address, version and sum of the bits of each parameter and buffer.
  struct Lowered {
    std::vector<std::array<int64_t, 3>> state;
    engine::IntegerNetwork network;
  };
  std::optional<Lowered> lowered_;
  std::vector<QuantizerPtr> inputs_;  // they belong to the layers that made the inputs: not registered here
  QuantizerPtr output_;
  double clamp_low_;
  double clamp_high_;
  core::RequantPolicy policy_;
  bool calibrating_ = false;
  bool recording_ = false;
  std::optional<Tensor> recorded_;
};

/// Where a float tensor enters the network.
class QuantizeImpl : public Layer {
 public:
  explicit QuantizeImpl(const QConfig& config);
  ir::ValueId lower(ir::Builder& builder, const std::string& name, const std::vector<ir::ValueId>& inputs) override;

 protected:
  Tensor simulate(const std::vector<Tensor>& inputs) override { return inputs[0]; }
};
TORCH_MODULE(Quantize);

/// Batch norm and activation that a convolution or linear layer contains.
struct AffineOptions {
  bool bias = true;
  bool batch_norm = false;
  double eps = 1e-5;
  double momentum = 0.1;
  bool relu = false;
  double clamp_high = std::numeric_limits<double>::infinity();  ///< 6 for ReLU6; needs relu
  bool last = false;                                            ///< no output quantizer: the result is real-valued
};

/// Convolution or linear layer with batch norm (batch statistics in training; frozen ones after freeze_batch_norm and in eval()) and ReLU.
class AffineLayer : public Layer {
 public:
  /// Uses and stops updating the moving statistics in training too.
  void freeze_batch_norm(bool frozen = true) { frozen_ = frozen; }
  void initialize_weights() override;
  const std::shared_ptr<WeightQuantizer>& weight_quantizer() const { return weight_quantizer_; }

  Tensor weight;       ///< parameter
  Tensor bias;         ///< parameter, or undefined
  Tensor norm_weight;  ///< batch norm's gamma, beta, moving mean and variance; undefined without batch norm
  Tensor norm_bias;
  Tensor running_mean;
  Tensor running_var;

 protected:
  AffineLayer(std::string name, std::vector<int64_t> weight_shape, const AffineOptions& options, const QConfig& config,
              QuantizerPtr input);

  virtual Tensor real(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b) = 0;
  virtual Tensor on_codes(const Tensor& x, const QuantizedWeight& w, const std::optional<Tensor>& b) = 0;
  /// Reshapes [C] to broadcast over the layer's result.
  virtual Tensor per_channel(const Tensor& t) const = 0;

  Tensor simulate(const std::vector<Tensor>& inputs) override;
  Tensor in_float(const std::vector<Tensor>& inputs) override;

  /// Whether input and weights lie on even grids, so that the layer can be computed on codes.
  bool has_codes(const QuantizedWeight& w) const;
  /// x less the residual of its grid, which enters through the bias.
  Tensor centered(const Tensor& x) const;

  /// Calls `append` with the layer's weight and per-channel factor and bias as the builder takes them.
  template <class Append>
  ir::ValueId lower_affine(const Append& append);

 private:
  struct ChannelTerms {
    std::optional<Tensor> factor;  // float64
    std::optional<Tensor> shift;   // float64
  };
  ChannelTerms frozen_affine() const;
  // The same with the statistics of the batch, which un-quantized weights give; gradients flow through them (F8Net).
  ChannelTerms batch_affine(const Tensor& x);
  // Factor and shift of what input and output tensors hold, from those of the real values they stand for.
  ChannelTerms between_etas(ChannelTerms real) const;
  bool uses_batch_statistics() const { return options_.batch_norm && is_training() && !frozen_; }
  // Whether sums may leave the integers of float32 where all else is exact: with powers of two only and frozen statistics.
  bool needs_double(const QuantizedWeight& w, const Tensor& bias, const Tensor& unit) const;
  QuantizedWeight quantized_weight(const std::optional<Tensor>& factor);
  Tensor folded(const std::optional<Tensor>& factor) const;
  std::optional<Tensor> residual_of(const QuantizedWeight& w) const;
  Tensor simulate_batch(const Tensor& x);

  AffineOptions options_;
  bool fold_;
  bool fold_batch_;
  bool frozen_ = false;
  std::shared_ptr<WeightQuantizer> weight_quantizer_;
};

/// [N, C, H, W] -> [N, O, H', W'], zero-padded.
struct Conv2dOptions {
  Conv2dOptions(int64_t in_channels, int64_t out_channels, int64_t kernel_size)
      : in_channels_(in_channels), out_channels_(out_channels), kernel_{kernel_size, kernel_size} {}
  Conv2dOptions& kernel(int64_t height, int64_t width) {
    kernel_ = {height, width};
    return *this;
  }
  Conv2dOptions& stride(int64_t s) {
    geometry_.stride = {s, s};
    return *this;
  }
  Conv2dOptions& padding(int64_t p) {
    geometry_.padding = {p, p, p, p};
    return *this;
  }
  Conv2dOptions& dilation(int64_t d) {
    geometry_.dilation = {d, d};
    return *this;
  }
  Conv2dOptions& groups(int64_t g) {
    geometry_.groups = g;
    return *this;
  }
  Conv2dOptions& bias(bool b) {
    affine_.bias = b;
    return *this;
  }
  Conv2dOptions& batch_norm(bool b) {
    affine_.batch_norm = b;
    return *this;
  }
  Conv2dOptions& relu(bool r) {
    affine_.relu = r;
    return *this;
  }
  Conv2dOptions& relu6(bool r) {
    affine_.relu = r;
    affine_.clamp_high = 6;
    return *this;
  }
  Conv2dOptions& last(bool l) {
    affine_.last = l;
    return *this;
  }

  int64_t in_channels_;
  int64_t out_channels_;
  std::array<int64_t, 2> kernel_;
  ConvGeometry geometry_;
  AffineOptions affine_;
};

class Conv2dImpl : public AffineLayer {
 public:
  /// input: quantizer of the layer before. Throws Error for sizes that do not fit.
  Conv2dImpl(const Conv2dOptions& options, const QConfig& config, QuantizerPtr input);
  ir::ValueId lower(ir::Builder& builder, const std::string& name, const std::vector<ir::ValueId>& inputs) override;

 protected:
  Tensor real(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b) override;
  Tensor on_codes(const Tensor& x, const QuantizedWeight& w, const std::optional<Tensor>& b) override;
  Tensor per_channel(const Tensor& t) const override { return t.reshape({-1, 1, 1}); }

 private:
  Conv2dOptions options_;
};
TORCH_MODULE(Conv2d);

/// [..., in] -> [..., out].
struct LinearOptions {
  LinearOptions(int64_t in_features, int64_t out_features) : in_features_(in_features), out_features_(out_features) {}
  LinearOptions& bias(bool b) {
    affine_.bias = b;
    return *this;
  }
  LinearOptions& batch_norm(bool b) {
    affine_.batch_norm = b;
    return *this;
  }
  LinearOptions& relu(bool r) {
    affine_.relu = r;
    return *this;
  }
  LinearOptions& last(bool l) {
    affine_.last = l;
    return *this;
  }

  int64_t in_features_;
  int64_t out_features_;
  AffineOptions affine_;
};

class LinearImpl : public AffineLayer {
 public:
  LinearImpl(const LinearOptions& options, const QConfig& config, QuantizerPtr input);
  ir::ValueId lower(ir::Builder& builder, const std::string& name, const std::vector<ir::ValueId>& inputs) override;

 protected:
  Tensor real(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b) override;
  Tensor on_codes(const Tensor& x, const QuantizedWeight& w, const std::optional<Tensor>& b) override;
  Tensor per_channel(const Tensor& t) const override { return t; }
};
TORCH_MODULE(Linear);

/// Sum of two quantized tensors of one shape, requantized once; with relu, clamped.
class AddImpl : public Layer {
 public:
  AddImpl(const QConfig& config, QuantizerPtr left, QuantizerPtr right, bool relu = false);
  ir::ValueId lower(ir::Builder& builder, const std::string& name, const std::vector<ir::ValueId>& inputs) override;

 protected:
  Tensor simulate(const std::vector<Tensor>& inputs) override;
  Tensor in_float(const std::vector<Tensor>& inputs) override { return inputs[0] + inputs[1]; }
};
TORCH_MODULE(Add);

/// Quantized tensors side by side along dimension 1.
class ConcatImpl : public Layer {
 public:
  ConcatImpl(const QConfig& config, std::vector<QuantizerPtr> inputs);
  ir::ValueId lower(ir::Builder& builder, const std::string& name, const std::vector<ir::ValueId>& inputs) override;

 protected:
  Tensor simulate(const std::vector<Tensor>& inputs) override;
};
TORCH_MODULE(Concat);

/// A function of one quantized tensor, a table of codes as integers: "silu", "sigmoid", "hardswish", "tanh", "gelu", "relu".
class ElementwiseImpl : public Layer {
 public:
  ElementwiseImpl(const std::string& function, const QConfig& config, QuantizerPtr input);
  ir::ValueId lower(ir::Builder& builder, const std::string& name, const std::vector<ir::ValueId>& inputs) override;

 protected:
  Tensor simulate(const std::vector<Tensor>& inputs) override;

 private:
  std::string function_;
};
TORCH_MODULE(Elementwise);

/// Average pooling over square windows side by side: [N, C, H, W] -> [N, C, H / kernel, W / kernel]. Where the network has shifts only
/// (F8Net) the sum is divided by the power of two next to the window's size, and the output's eta makes up for it.
class AvgPool2dImpl : public Layer {
 public:
  AvgPool2dImpl(int64_t kernel, const QConfig& config, QuantizerPtr input, bool nonnegative = true);
  ir::ValueId lower(ir::Builder& builder, const std::string& name, const std::vector<ir::ValueId>& inputs) override;

 protected:
  Tensor simulate(const std::vector<Tensor>& inputs) override;
  Tensor in_float(const std::vector<Tensor>& inputs) override;

 private:
  int64_t kernel_;
  int64_t divisor_;
};
TORCH_MODULE(AvgPool2d);

/// Mean over height and width: [N, C, H, W] -> [N, C, height, width].
class AdaptiveAvgPool2dImpl : public Layer {
 public:
  AdaptiveAvgPool2dImpl(int64_t height, int64_t width, const QConfig& config, QuantizerPtr input,
                        bool nonnegative = true);
  ir::ValueId lower(ir::Builder& builder, const std::string& name, const std::vector<ir::ValueId>& inputs) override;

 protected:
  Tensor simulate(const std::vector<Tensor>& inputs) override;

 private:
  std::array<int64_t, 2> size_;
};
TORCH_MODULE(AdaptiveAvgPool2d);

}  // namespace qstep::nn
