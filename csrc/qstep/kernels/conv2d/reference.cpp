#include "qstep/kernels/conv2d/reference.h"

#include <vector>

#include "qstep/core/error.h"
#include "qstep/kernels/weight_factor.h"

namespace qstep::kernels {
namespace {

template <class Factor>
class ReferenceConv2d final : public PackedConv2d {
 public:
  explicit ReferenceConv2d(const Conv2dProblem& problem)
      : window_(problem.window),
        group_inputs_(problem.in_channels / problem.groups),
        group_outputs_(problem.out_channels / problem.groups),
        out_channels_(problem.out_channels),
        sums_(as_gemm(problem).sums()),
        zero_code_(problem.zero_code),
        weights_(problem.weights.begin(), problem.weights.end()),
        bias_(problem.bias.begin(), problem.bias.end()),
        epilogue_(problem.requantization, problem.out_channels, accumulator_bound(as_gemm(problem))) {
    bias_.resize(static_cast<size_t>(out_channels_), 0);
  }

  int64_t work_items(const ImageLayout& output) const override { return output.pixels(); }
  size_t scratch_bytes(const ImageLayout&) const override { return 0; }
  size_t packed_bytes() const override { return weights_.size() * sizeof(Factor) + bias_.size() * sizeof(int32_t); }

  void run(const Conv2dArguments& arguments, Range items, std::byte*) const override {
    const ImageLayout& output = arguments.output_layout;
    for (int64_t pixel = items.begin; pixel < items.end; ++pixel) {
      const PixelCursor at(output, pixel);
      for (int64_t o = 0; o < output.channels; ++o) {
        int32_t accumulators[max_sums];
        for (int k = 0; k < sums_; ++k) accumulators[k] = accumulator(arguments, at, o, k);
        epilogue_.store(accumulators, 1, o, arguments.output, output.offset(at.image, at.row, at.column) + o);
      }
    }
  }

 private:
  int32_t accumulator(const Conv2dArguments& arguments, const PixelCursor& at, int64_t o, int k) const {
    const ImageLayout& input = arguments.input_layout;
    const int64_t depth = window_.kernel[0] * window_.kernel[1] * group_inputs_;
    const Factor* weight = &weights_[static_cast<size_t>((k * out_channels_ + o) * depth)];
    const int64_t first_channel = o / group_outputs_ * group_inputs_;
    int32_t sum = bias_[static_cast<size_t>(o)];
    for (int32_t i = 0; i < window_.kernel[0]; ++i) {
      for (int32_t j = 0; j < window_.kernel[1]; ++j, weight += group_inputs_) {
        const int64_t y = at.row * window_.stride[0] - window_.padding[0] + int64_t{i} * window_.dilation[0];
        const int64_t x = at.column * window_.stride[1] - window_.padding[1] + int64_t{j} * window_.dilation[1];
        if (y < 0 || y >= input.height || x < 0 || x >= input.width) continue;  // counts as zero_code
        const uint8_t* code = arguments.input + input.offset(at.image, y, x) + first_channel;
        for (int64_t c = 0; c < group_inputs_; ++c) sum += weight[c](code[c] - zero_code_);
      }
    }
    return sum;
  }

  core::Window window_;
  int64_t group_inputs_;
  int64_t group_outputs_;
  int64_t out_channels_;
  int sums_;
  int32_t zero_code_;
  std::vector<Factor> weights_;
  std::vector<int32_t> bias_;
  Epilogue epilogue_;
};

}  // namespace

std::unique_ptr<PackedConv2d> pack_conv2d_reference(const Conv2dProblem& problem) {
  validate(problem);
  return std::make_unique<ReferenceConv2d<Multiplied>>(problem);
}

std::unique_ptr<PackedConv2d> pack_conv2d_shift_add(const Conv2dProblem& problem) {
  validate(problem);
  require(are_powers_of_two(problem.weights), "conv2d: weights must be 0 or powers of two");
  return std::make_unique<ReferenceConv2d<Shifted>>(problem);
}

}  // namespace qstep::kernels
