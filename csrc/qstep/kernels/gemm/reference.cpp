#include "qstep/kernels/gemm/reference.h"

#include <vector>

namespace qstep::kernels {
namespace {

class ReferenceGemm final : public PackedGemm {
 public:
  explicit ReferenceGemm(const GemmProblem& problem)
      : depth_(problem.depth),
        columns_(problem.columns),
        zero_code_(problem.zero_code),
        weights_(problem.weights.begin(), problem.weights.end()),
        bias_(problem.bias.begin(), problem.bias.end()),
        epilogue_(problem.requantization, problem.columns, accumulator_bound(problem)) {}

  int64_t work_items(int64_t rows) const override { return rows; }
  size_t scratch_bytes(int64_t) const override { return 0; }
  size_t packed_bytes() const override { return weights_.size() * sizeof(int16_t) + bias_.size() * sizeof(int32_t); }

  void run(const GemmArguments& arguments, Range items, std::byte*) const override {
    for (int64_t m = items.begin; m < items.end; ++m) {
      const uint8_t* input = arguments.input + m * arguments.input_stride;
      for (int64_t n = 0; n < columns_; ++n) {
        const int32_t accumulator =
            dot(input, &weights_[static_cast<size_t>(n * depth_)]) + bias_[static_cast<size_t>(n)];
        const int64_t at = m * arguments.output_stride + n;
        if (epilogue_.is_raw()) {
          arguments.output.accumulators[at] = accumulator;
        } else {
          arguments.output.codes[at] = epilogue_.code(accumulator, n);
        }
      }
    }
  }

 private:
  int32_t dot(const uint8_t* input, const int16_t* weights) const {
    int32_t sum = 0;
    for (int64_t k = 0; k < depth_; ++k) sum += (input[k] - zero_code_) * weights[k];
    return sum;
  }

  int64_t depth_;
  int64_t columns_;
  int32_t zero_code_;
  std::vector<int16_t> weights_;
  std::vector<int32_t> bias_;
  Epilogue epilogue_;
};

}  // namespace

std::unique_ptr<PackedGemm> pack_gemm_reference(const GemmProblem& problem) {
  validate(problem);
  return std::make_unique<ReferenceGemm>(problem);
}

}  // namespace qstep::kernels
