#include "qstep/engine/copy.h"
#include "qstep/engine/nodes/node_kernel.h"
#include "qstep/kernels/elementwise/bilinear.h"
#include "qstep/kernels/elementwise/lookup.h"

namespace qstep::engine {
namespace {

using kernels::ImageLayout;

/// Operands of one shape as images, whatever the shape's rank. A run of elements that all operands merge into one
/// dimension is cut into rows, so that threads can share it.
class Images {
 public:
  /// Nothing where more than four dimensions remain or the output's innermost is not contiguous.
  static std::optional<Images> of(const Walk& walk) {
    Images images;
    images.sizes_ = walk.sizes;
    images.strides_ = walk.strides;
    if (!images.has_contiguous_runs()) images.append_unit();
    images.cut_long_run();
    if (images.sizes_.size() > 4) return std::nullopt;
    while (images.sizes_.size() < 4) images.prepend_unit();
    return images;
  }

  int64_t rows() const { return sizes_[0] * sizes_[1]; }

  ImageLayout layout(size_t operand) const {
    const Strides& s = strides_[operand];
    return {sizes_[0], sizes_[1], sizes_[2], sizes_[3], s[0], s[1], s[2]};
  }

  int64_t channel_stride(size_t operand) const { return strides_[operand][3]; }

 private:
  // All but a repeated operand advance by 1.
  bool has_contiguous_runs() const {
    for (const Strides& strides : strides_) {
      if (strides.back() != 1 && (strides.back() != 0 || &strides == &strides_.front())) return false;
    }
    return true;
  }

  void append_unit() {
    sizes_.push_back(1);
    for (Strides& strides : strides_) strides.push_back(1);
  }

  void prepend_unit() {
    sizes_.insert(sizes_.begin(), 1);
    for (Strides& strides : strides_) strides.insert(strides.begin(), 0);
  }

  // Into as many equal rows as its size allows, each no shorter than a piece.
  void cut_long_run() {
    if (sizes_.size() != 1) return;
    int64_t rows = sizes_[0] / run_piece;
    while (rows > 1 && sizes_[0] % rows != 0) --rows;
    if (rows <= 1) return;
    sizes_ = {rows, 1, sizes_[0] / rows};
    for (Strides& strides : strides_) strides = {strides[0] * sizes_[2], 0, strides[0]};
  }

  Shape sizes_;
  std::vector<Strides> strides_;
};

class BilinearNode : public NodeKernel {
 public:
  BilinearNode(const NodeContext& context, const ir::Bilinear& op)
      : problem_{.product = op.product,
                 .left = op.left,
                 .right = op.right,
                 .constant = op.constant,
                 .shift = op.shift,
                 .quant_max_a = context.input(0).grid.quant_max,
                 .quant_max_b = context.input(1).grid.quant_max,
                 .zero_code_a = core::zero_code(context.input(0).grid),
                 .zero_code_b = core::zero_code(context.input(1).grid),
                 .zero_point = context.output().grid.zero_point,
                 .clamp_min = op.clamp_min,
                 .clamp_max = op.clamp_max} {
    kernels::validate(problem_);
    kernel_ = &kernels::choose_bilinear(problem_, context.isa);
  }

  std::string_view name() const override { return kernel_->name; }

  std::optional<Step> bind(std::span<const View> inputs, const View& output) const override {
    const View right = broadcast(inputs[1], output.shape);
    const auto images = Images::of(walk(output.shape, {&output.strides, &inputs[0].strides, &right.strides}));
    if (!images) return std::nullopt;
    return Step{.items = images->rows(),
                .cost = ir::element_count(output.shape, "bilinear") / 4,
                .run = [=, this, left = inputs[0], images = *images](const Memory& memory, Range items, std::byte*) {
                  kernel_->run(problem_,
                               {.a = memory.at<const uint8_t>(left),
                                .a_layout = images.layout(1),
                                .b = memory.at<const uint8_t>(right),
                                .b_layout = images.layout(2),
                                .b_channel_stride = images.channel_stride(2),
                                .output = memory.at<uint8_t>(output),
                                .output_layout = images.layout(0)},
                               items);
                }};
  }

 private:
  kernels::BilinearProblem problem_;
  const kernels::BilinearKernel* kernel_;
};

class LookupNode : public NodeKernel {
 public:
  LookupNode(const NodeContext& context, const ir::Lookup& op) {
    std::copy(op.table.begin(), op.table.end(), problem_.table.begin());
    problem_.entries = static_cast<int32_t>(op.table.size());
    kernel_ = &kernels::choose_lookup(problem_, context.isa);
  }

  std::string_view name() const override { return kernel_->name; }

  std::optional<Step> bind(std::span<const View> inputs, const View& output) const override {
    const auto images = Images::of(walk(output.shape, {&output.strides, &inputs[0].strides}));
    if (!images || images->channel_stride(1) != 1) return std::nullopt;
    return Step{.items = images->rows(),
                .cost = ir::element_count(output.shape, "lookup") / 8,
                .run = [=, this, input = inputs[0], images = *images](const Memory& memory, Range items, std::byte*) {
                  kernel_->run(problem_,
                               {.input = memory.at<const uint8_t>(input),
                                .input_layout = images.layout(1),
                                .output = memory.at<uint8_t>(output),
                                .output_layout = images.layout(0)},
                               items);
                }};
  }

 private:
  kernels::LookupProblem problem_;
  const kernels::LookupKernel* kernel_;
};

}  // namespace

std::unique_ptr<NodeKernel> prepare(const NodeContext& context, const ir::Bilinear& op) {
  return std::make_unique<BilinearNode>(context, op);
}

std::unique_ptr<NodeKernel> prepare(const NodeContext& context, const ir::Lookup& op) {
  return std::make_unique<LookupNode>(context, op);
}

}  // namespace qstep::engine
