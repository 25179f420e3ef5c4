#include "qstep/kernels/conv2d/conv2d.h"

#include "qstep/engine/nodes/layer.h"
#include "qstep/ir/weight.h"

namespace qstep::engine {
namespace {

class Conv2dNode : public NodeKernel {
 public:
  Conv2dNode(const NodeContext& context, const ir::Conv2d& conv)
      : is_raw_(context.output().kind == ir::ValueKind::accumulator),
        depth_(ir::sum_count(conv.weight) * static_cast<int64_t>(conv.weight.codes.size()) / conv.weight.shape[0]) {
    const core::Grid& grid = context.input(0).grid;
    const std::vector<int16_t> weights = kernel_weights(conv.weight);
    const kernels::Conv2dProblem problem{.in_channels = conv.weight.shape[1] * conv.groups,
                                         .out_channels = conv.weight.shape[0],
                                         .groups = conv.groups,
                                         .window = conv.window,
                                         .quant_max = grid.quant_max,
                                         .zero_code = core::zero_code(grid),
                                         .weights = weights,
                                         .bias = conv.bias,
                                         .requantization = requantization(context, conv.weight, conv.requantize)};
    kernels::validate(problem);
    kernel_ = &kernels::choose_conv2d(problem, context.isa);
    packed_ = kernel_->pack(problem);
  }

  std::string_view name() const override { return kernel_->name; }
  int64_t packed_bytes() const override { return static_cast<int64_t>(packed_->packed_bytes()); }

  std::optional<Step> bind(std::span<const View> inputs, const View& output) const override {
    const auto input_layout = image_layout(inputs[0]);
    const auto output_layout = image_layout(output);
    if (!input_layout || !output_layout) return std::nullopt;
    return Step{.items = packed_->work_items(*output_layout),
                .cost = product_cost(ir::element_count(output.shape, "conv2d"), depth_, packed_bytes()),
                .scratch_bytes = packed_->scratch_bytes(*output_layout),
                .run = [=, this, input = inputs[0]](const Memory& memory, Range items, std::byte* scratch) {
                  packed_->run({.input = memory.at<const uint8_t>(input),
                                .input_layout = *input_layout,
                                .output = output_pointer(memory, output, is_raw_),
                                .output_layout = *output_layout},
                               items, scratch);
                }};
  }

 private:
  bool is_raw_;
  int64_t depth_;  // of all sums
  const kernels::Conv2dKernel* kernel_;
  std::unique_ptr<kernels::PackedConv2d> packed_;
};

}  // namespace

std::unique_ptr<NodeKernel> prepare(const NodeContext& context, const ir::Conv2d& op) {
  return std::make_unique<Conv2dNode>(context, op);
}

}  // namespace qstep::engine
