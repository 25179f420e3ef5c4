#include "qstep/kernels/gemm/gemm.h"

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "qstep/core/error.h"

namespace qstep::kernels {
namespace {

std::span<const int16_t> column_weights(const GemmProblem& problem, int64_t column) {
  return problem.weights.subspan(static_cast<size_t>(column * problem.depth), static_cast<size_t>(problem.depth));
}

int64_t column_bound(const GemmProblem& problem, int64_t column) {
  int64_t sum = 0;
  for (const int16_t w : column_weights(problem, column)) sum += std::abs(w);
  const int64_t largest_input = std::max(problem.zero_code, problem.quant_max - problem.zero_code);
  return largest_input * sum + std::abs(int64_t{problem.bias[static_cast<size_t>(column)]});
}

}  // namespace

void validate(const GemmProblem& problem, std::string_view operation) {
  require(problem.depth >= 1, "{}: depth must be at least 1, got {}", operation, problem.depth);
  require(problem.columns >= 1, "{}: columns must be at least 1, got {}", operation, problem.columns);
  require(1 <= problem.quant_max && problem.quant_max <= 255, "{}: quant_max must be in [1, 255], got {}", operation,
          problem.quant_max);
  require(0 <= problem.zero_code && problem.zero_code <= problem.quant_max, "{}: zero_code must be in [0, {}], got {}",
          operation, problem.quant_max, problem.zero_code);
  const auto weight_count = static_cast<int64_t>(problem.weights.size());
  require(weight_count % problem.depth == 0 && weight_count / problem.depth == problem.columns,
          "{}: there must be {} x {} weights, got {}", operation, problem.columns, problem.depth, weight_count);
  require(static_cast<int64_t>(problem.bias.size()) == problem.columns, "{}: bias must have {} entries, got {}",
          operation, problem.columns, problem.bias.size());
  for (const int16_t w : problem.weights) {
    require(-255 <= w && w <= 255, "{}: weights must be in [-255, 255], got {}", operation, w);
  }
  for (int64_t n = 0; n < problem.columns; ++n) {
    const int64_t bound = column_bound(problem, n);
    require(bound <= std::numeric_limits<int32_t>::max(),
            "{}: the accumulator of output channel {} may reach {}, which overflows int32: max|input - zero_code| * "
            "sum|weight| + |bias| "
            "must be below 2^31",
            operation, n, bound);
  }
  validate(problem.requantization, problem.columns, operation);
}

int64_t accumulator_bound(const GemmProblem& problem) {
  int64_t bound = 0;
  for (int64_t n = 0; n < problem.columns; ++n) bound = std::max(bound, column_bound(problem, n));
  return bound;
}

int32_t folded_bias(const GemmProblem& problem, int64_t column) {
  int64_t sum = 0;
  for (const int16_t w : column_weights(problem, column)) sum += w;
  return static_cast<int32_t>(problem.bias[static_cast<size_t>(column)] - problem.zero_code * sum);
}

}  // namespace qstep::kernels
