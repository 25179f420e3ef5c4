#include "qstep/kernels/conv2d/reference.h"

#include <vector>

namespace qstep::kernels {
namespace {

class ReferenceConv2d final : public PackedConv2d {
 public:
  explicit ReferenceConv2d(const Conv2dProblem& problem)
      : window_(problem.window),
        group_inputs_(problem.in_channels / problem.groups),
        group_outputs_(problem.out_channels / problem.groups),
        zero_code_(problem.zero_code),
        weights_(problem.weights.begin(), problem.weights.end()),
        bias_(problem.bias.begin(), problem.bias.end()),
        epilogue_(problem.requantization, problem.out_channels, accumulator_bound(as_gemm(problem))) {}

  int64_t work_items(const ImageLayout& output) const override { return output.pixels(); }
  size_t scratch_bytes(const ImageLayout&) const override { return 0; }
  size_t packed_bytes() const override { return weights_.size() * sizeof(int16_t) + bias_.size() * sizeof(int32_t); }

  void run(const Conv2dArguments& arguments, Range items, std::byte*) const override {
    const ImageLayout& output = arguments.output_layout;
    for (int64_t pixel = items.begin; pixel < items.end; ++pixel) {
      const PixelCursor at(output, pixel);
      for (int64_t o = 0; o < output.channels; ++o) {
        const int32_t sum = accumulator(arguments, at, o);
        const int64_t offset = output.offset(at.image, at.row, at.column) + o;
        if (epilogue_.is_raw()) {
          arguments.output.accumulators[offset] = sum;
        } else {
          arguments.output.codes[offset] = epilogue_.code(sum, o);
        }
      }
    }
  }

 private:
  int32_t accumulator(const Conv2dArguments& arguments, const PixelCursor& at, int64_t o) const {
    const ImageLayout& input = arguments.input_layout;
    const int16_t* weight = &weights_[static_cast<size_t>(o * window_.kernel[0] * window_.kernel[1] * group_inputs_)];
    const int64_t first_channel = o / group_outputs_ * group_inputs_;
    int32_t sum = bias_[static_cast<size_t>(o)];
    for (int32_t i = 0; i < window_.kernel[0]; ++i) {
      for (int32_t j = 0; j < window_.kernel[1]; ++j, weight += group_inputs_) {
        const int64_t y = at.row * window_.stride[0] - window_.padding[0] + int64_t{i} * window_.dilation[0];
        const int64_t x = at.column * window_.stride[1] - window_.padding[1] + int64_t{j} * window_.dilation[1];
        if (y < 0 || y >= input.height || x < 0 || x >= input.width) continue;  // counts as zero_code
        const uint8_t* code = arguments.input + input.offset(at.image, y, x) + first_channel;
        for (int64_t c = 0; c < group_inputs_; ++c) sum += (code[c] - zero_code_) * weight[c];
      }
    }
    return sum;
  }

  core::Window window_;
  int64_t group_inputs_;
  int64_t group_outputs_;
  int32_t zero_code_;
  std::vector<int16_t> weights_;
  std::vector<int32_t> bias_;
  Epilogue epilogue_;
};

}  // namespace

std::unique_ptr<PackedConv2d> pack_conv2d_reference(const Conv2dProblem& problem) {
  validate(problem);
  return std::make_unique<ReferenceConv2d>(problem);
}

}  // namespace qstep::kernels
