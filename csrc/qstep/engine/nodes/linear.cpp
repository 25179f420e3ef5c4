#include "qstep/engine/nodes/layer.h"
#include "qstep/ir/weight.h"
#include "qstep/kernels/gemm/gemm.h"

namespace qstep::engine {
namespace {

class LinearNode : public NodeKernel {
 public:
  LinearNode(const NodeContext& context, const ir::Linear& linear)
      : is_raw_(context.output().kind == ir::ValueKind::accumulator),
        depth_(linear.weight.shape[1]),
        columns_(linear.weight.shape[0]),
        sums_(ir::sum_count(linear.weight)) {
    const core::Grid& grid = context.input(0).grid;
    const std::vector<int16_t> weights = kernel_weights(linear.weight);
    const kernels::GemmProblem problem{.depth = depth_,
                                       .columns = columns_,
                                       .quant_max = grid.quant_max,
                                       .zero_code = core::zero_code(grid),
                                       .weights = weights,
                                       .bias = linear.bias,
                                       .requantization = requantization(context, linear.weight, linear.requantize)};
    kernels::validate(problem, "linear");
    kernel_ = &kernels::choose_gemm(problem, context.isa);
    packed_ = kernel_->pack(problem);
  }

  std::string_view name() const override { return kernel_->name; }
  int64_t packed_bytes() const override { return static_cast<int64_t>(packed_->packed_bytes()); }
  Order order(size_t) const override { return Order::row_major; }

  std::optional<Step> bind(std::span<const View> inputs, const View& output) const override {
    const int64_t rows = ir::element_count(output.shape, "linear") / columns_;
    const auto input = reshaped(inputs[0], {rows, depth_});
    const auto result = reshaped(output, {rows, columns_});
    if (!input || !result || !has_contiguous_rows(*input) || !has_contiguous_rows(*result)) return std::nullopt;
    return Step{
        .items = packed_->work_items(rows),
        .cost = product_cost(rows * columns_, depth_ * sums_, packed_bytes()),
        .scratch_bytes = packed_->scratch_bytes(rows),
        .run = [this, rows, input = *input, result = *result](const Memory& memory, Range items, std::byte* scratch) {
          packed_->run({.input = memory.at<const uint8_t>(input),
                        .rows = rows,
                        .input_stride = input.strides[0],
                        .output = output_pointer(memory, result, is_raw_),
                        .output_stride = result.strides[0]},
                       items, scratch);
        }};
  }

 private:
  static bool has_contiguous_rows(const View& matrix) { return matrix.shape[1] == 1 || matrix.strides[1] == 1; }

  bool is_raw_;
  int64_t depth_;
  int64_t columns_;
  int32_t sums_;
  const kernels::GemmKernel* kernel_;
  std::unique_ptr<kernels::PackedGemm> packed_;
};

}  // namespace

std::unique_ptr<NodeKernel> prepare(const NodeContext& context, const ir::Linear& op) {
  return std::make_unique<LinearNode>(context, op);
}

}  // namespace qstep::engine
