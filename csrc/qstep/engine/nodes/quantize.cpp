// The borders of the network: floats to codes, codes and accumulators to floats.
#include "qstep/kernels/elementwise/quantize.h"

#include "qstep/engine/copy.h"
#include "qstep/engine/nodes/node_kernel.h"
#include "qstep/kernels/elementwise/interleave.h"

namespace qstep::engine {
namespace {

class QuantizeNode : public NodeKernel {
 public:
  explicit QuantizeNode(const NodeContext& context) : grid_(context.output().grid) {
    kernels::validate_code_grid(grid_);
    kernel_ = &kernels::choose_quantize(grid_, context.isa);
    interleave_ = &kernels::choose_interleave(context.isa);
  }

  std::string_view name() const override { return kernel_->name; }

  std::optional<Step> bind(std::span<const View> inputs, const View& output) const override {
    if (output.shape.size() == 4 && output.shape[1] == 3 && is_dense(inputs[0], Order::row_major) &&
        is_dense(output, Order::channels_last)) {
      return bind_colour_image(inputs[0], output);
    }
    const Runs runs(walk(output.shape, {&inputs[0].strides, &output.strides}));
    if (runs.inner_stride(0) != 1) return std::nullopt;
    return Step{
        .items = runs.items(),
        .cost = ir::element_count(output.shape, "quantize") / 2,
        .run = [=, kernel = kernel_, grid = grid_, input = inputs[0]](const Memory& memory, Range items, std::byte*) {
          const float* x = memory.at<const float>(input);
          uint8_t* codes = memory.at<uint8_t>(output);
          bool all_numbers = true;
          runs.each(items, [&](const Runs::Offsets& offsets, int64_t count) {
            all_numbers &= kernel->run(x + offsets[0], count, grid, codes + offsets[1], runs.inner_stride(1));
          });
          if (!all_numbers) *memory.found_nan = true;
        }};
  }

 private:
  // Piece by piece: three planes to scratch, in vectors, then to pixels.
  Step bind_colour_image(const View& input, const View& output) const {
    constexpr int64_t piece = run_piece / 4;
    const int64_t plane = output.shape[2] * output.shape[3];
    const int64_t pieces = (plane + piece - 1) / piece;
    return Step{.items = output.shape[0] * pieces,
                .cost = ir::element_count(output.shape, "quantize") / 4,
                .scratch_bytes = 3 * piece,
                .run = [=, this](const Memory& memory, Range items, std::byte* scratch) {
                  auto* planes = reinterpret_cast<uint8_t*>(scratch);
                  bool all_numbers = true;
                  for (int64_t item = items.begin; item < items.end; ++item) {
                    const int64_t image = item / pieces * 3 * plane;
                    const int64_t first = item % pieces * piece;
                    const int64_t count = std::min(piece, plane - first);
                    const float* x = memory.at<const float>(input) + image + first;
                    for (int c = 0; c < 3; ++c) {
                      all_numbers &= kernel_->run(x + c * plane, count, grid_, planes + c * piece, 1);
                    }
                    interleave_->run(planes, piece, count, memory.at<uint8_t>(output) + image + 3 * first);
                  }
                  if (!all_numbers) *memory.found_nan = true;
                }};
  }

  core::Grid grid_;
  const kernels::QuantizeKernel* kernel_;
  const kernels::InterleaveKernel* interleave_;
};

class DequantizeCodesNode : public NodeKernel {
 public:
  explicit DequantizeCodesNode(const NodeContext& context) : grid_(context.input(0).grid) {
    kernel_ = &kernels::choose_dequantize(grid_, context.isa);
  }

  std::string_view name() const override { return kernel_->name; }

  std::optional<Step> bind(std::span<const View> inputs, const View& output) const override {
    const Runs runs(walk(output.shape, {&output.strides, &inputs[0].strides}));
    if (runs.inner_stride(0) != 1) return std::nullopt;
    return Step{
        .items = runs.items(),
        .cost = ir::element_count(output.shape, "dequantize") / 2,
        .run = [=, kernel = kernel_, grid = grid_, input = inputs[0]](const Memory& memory, Range items, std::byte*) {
          const uint8_t* codes = memory.at<const uint8_t>(input);
          float* y = memory.at<float>(output);
          runs.each(items, [&](const Runs::Offsets& offsets, int64_t count) {
            kernel->run(codes + offsets[1], runs.inner_stride(1), count, grid, y + offsets[0]);
          });
        }};
  }

 private:
  core::Grid grid_;
  const kernels::DequantizeKernel* kernel_;
};

/// A scale for each channel: dimension 1 of a convolution's [N, C, H, W], the last of a linear's [N, ..., C].
class DequantizeAccumulatorsNode : public NodeKernel {
 public:
  explicit DequantizeAccumulatorsNode(const NodeContext& context) : scales_(context.input(0).scales) {
    kernel_ = &kernels::choose_dequantize_accumulators(scales_[0], context.isa);
    for (const ir::Node& producer : context.graph.nodes) {
      if (producer.output == context.node.inputs[0])
        of_conv2d_ = std::holds_alternative<ir::Conv2d>(producer.operation);
    }
  }

  std::string_view name() const override { return kernel_->name; }
  Order order(size_t rank) const override { return of_conv2d_ ? usual_order(rank) : Order::row_major; }

  std::optional<Step> bind(std::span<const View> inputs, const View& output) const override {
    // As [outer, channel, inner], which both operands must allow.
    const Shape& shape = output.shape;
    const size_t axis = of_conv2d_ ? 1 : shape.size() - 1;
    Shape three = {1, shape[axis], 1};
    for (size_t i = 0; i < shape.size(); ++i) {
      if (i != axis) three[i < axis ? 0 : 2] *= shape[i];
    }
    const auto input = reshaped(inputs[0], three);
    const auto real = reshaped(output, three);
    if (!input || !real || (three[2] > 1 && real->strides[2] != 1)) return std::nullopt;
    return Step{.items = three[0] * three[1],
                .cost = ir::element_count(shape, "dequantize") / 2,
                .run = [this, input = *input, real = *real](const Memory& memory, Range items, std::byte*) {
                  const int32_t* accumulators = memory.at<const int32_t>(input);
                  float* y = memory.at<float>(real);
                  const int64_t channels = input.shape[1];
                  for (int64_t item = items.begin; item < items.end; ++item) {
                    const int64_t outer = item / channels;
                    const int64_t c = item % channels;
                    kernel_->run(accumulators + outer * input.strides[0] + c * input.strides[1], input.strides[2],
                                 input.shape[2], scales_[static_cast<size_t>(c)],
                                 y + outer * real.strides[0] + c * real.strides[1]);
                  }
                }};
  }

 private:
  std::vector<double> scales_;
  bool of_conv2d_ = false;
  const kernels::DequantizeAccumulatorsKernel* kernel_;
};

}  // namespace

std::unique_ptr<NodeKernel> prepare(const NodeContext& context, const ir::Quantize&) {
  return std::make_unique<QuantizeNode>(context);
}

std::unique_ptr<NodeKernel> prepare(const NodeContext& context, const ir::Dequantize&) {
  if (context.input(0).kind == ir::ValueKind::codes) return std::make_unique<DequantizeCodesNode>(context);
  return std::make_unique<DequantizeAccumulatorsNode>(context);
}

}  // namespace qstep::engine
