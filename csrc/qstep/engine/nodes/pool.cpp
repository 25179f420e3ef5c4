#include "qstep/kernels/pool/pool.h"

#include "qstep/engine/nodes/node_kernel.h"

namespace qstep::engine {
namespace {

/// Both pools: a problem, and a kernel from its table.
template <class Problem, class Kernel>
class PoolNode : public NodeKernel {
 public:
  PoolNode(const Problem& problem, const Kernel& kernel) : problem_(problem), kernel_(kernel) {}

  std::string_view name() const override { return kernel_.name; }

  std::optional<Step> bind(std::span<const View> inputs, const View& output) const override {
    const auto input_layout = image_layout(inputs[0]);
    const auto output_layout = image_layout(output);
    if (!input_layout || !output_layout) return std::nullopt;
    kernels::validate(problem_, *input_layout, *output_layout);
    return Step{.items = output_layout->batch * output_layout->height,
                .cost = ir::element_count(inputs[0].shape, "pool") / 16,
                .run = [=, this, input = inputs[0]](const Memory& memory, Range items, std::byte*) {
                  kernel_.run(problem_,
                              {.input = memory.at<const uint8_t>(input),
                               .input_layout = *input_layout,
                               .output = memory.at<uint8_t>(output),
                               .output_layout = *output_layout},
                              items);
                }};
  }

 private:
  Problem problem_;
  const Kernel& kernel_;
};

}  // namespace

std::unique_ptr<NodeKernel> prepare(const NodeContext& context, const ir::MaxPool2d& op) {
  const kernels::MaxPool2dProblem problem{.window = op.window};
  using Pool = PoolNode<kernels::MaxPool2dProblem, kernels::MaxPool2dKernel>;
  return std::make_unique<Pool>(problem, kernels::choose_max_pool2d(problem, context.isa));
}

std::unique_ptr<NodeKernel> prepare(const NodeContext& context, const ir::AvgPool2d& op) {
  const kernels::AvgPool2dProblem problem{.window = op.window,
                                          .count_include_pad = op.count_include_pad,
                                          .adaptive = op.adaptive,
                                          .divisor_override = op.divisor_override,
                                          .zero_code = core::zero_code(context.input(0).grid),
                                          .multiplier = op.multiplier,
                                          .tap_constant = op.tap_constant,
                                          .constant = op.constant,
                                          .shift = op.shift,
                                          .zero_point = context.output().grid.zero_point,
                                          .clamp_min = op.clamp_min,
                                          .clamp_max = op.clamp_max};
  using Pool = PoolNode<kernels::AvgPool2dProblem, kernels::AvgPool2dKernel>;
  return std::make_unique<Pool>(problem, kernels::choose_avg_pool2d(problem, context.isa));
}

}  // namespace qstep::engine
