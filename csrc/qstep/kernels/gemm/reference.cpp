#include "qstep/kernels/gemm/reference.h"

#include <vector>

#include "qstep/core/error.h"
#include "qstep/kernels/weight_factor.h"

namespace qstep::kernels {
namespace {

template <class Factor>
class ReferenceGemm final : public PackedGemm {
 public:
  explicit ReferenceGemm(const GemmProblem& problem)
      : depth_(problem.depth),
        columns_(problem.columns),
        sums_(problem.sums()),
        zero_code_(problem.zero_code),
        weights_(problem.weights.begin(), problem.weights.end()),
        bias_(problem.bias.begin(), problem.bias.end()),
        epilogue_(problem.requantization, problem.columns, accumulator_bound(problem)) {
    bias_.resize(static_cast<size_t>(columns_), 0);
  }

  int64_t work_items(int64_t rows) const override { return rows; }
  size_t scratch_bytes(int64_t) const override { return 0; }
  size_t packed_bytes() const override { return weights_.size() * sizeof(Factor) + bias_.size() * sizeof(int32_t); }

  void run(const GemmArguments& arguments, Range items, std::byte*) const override {
    for (int64_t m = items.begin; m < items.end; ++m) {
      const uint8_t* input = arguments.input + m * arguments.input_stride;
      for (int64_t n = 0; n < columns_; ++n) {
        int32_t accumulators[max_sums];
        for (int k = 0; k < sums_; ++k) {
          accumulators[k] =
              dot(input, &weights_[static_cast<size_t>((k * columns_ + n) * depth_)]) + bias_[static_cast<size_t>(n)];
        }
        epilogue_.store(accumulators, 1, n, arguments.output, m * arguments.output_stride + n);
      }
    }
  }

 private:
  int32_t dot(const uint8_t* input, const Factor* weights) const {
    int32_t sum = 0;
    for (int64_t k = 0; k < depth_; ++k) sum += weights[k](input[k] - zero_code_);
    return sum;
  }

  int64_t depth_;
  int64_t columns_;
  int sums_;
  int32_t zero_code_;
  std::vector<Factor> weights_;
  std::vector<int32_t> bias_;
  Epilogue epilogue_;
};

}  // namespace

std::unique_ptr<PackedGemm> pack_gemm_reference(const GemmProblem& problem) {
  validate(problem);
  return std::make_unique<ReferenceGemm<Multiplied>>(problem);
}

std::unique_ptr<PackedGemm> pack_gemm_shift_add(const GemmProblem& problem) {
  validate(problem);
  require(are_powers_of_two(problem.weights), "gemm: weights must be 0 or powers of two");
  return std::make_unique<ReferenceGemm<Shifted>>(problem);
}

}  // namespace qstep::kernels
