#include "qstep/kernels/gemm/gemm.h"

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "qstep/core/error.h"

namespace qstep::kernels {
namespace {

constexpr int64_t largest_total = int64_t{1} << 62;

std::span<const int16_t> column_weights(const GemmProblem& problem, int64_t column, int sum) {
  return problem.weights.subspan(static_cast<size_t>((sum * problem.columns + column) * problem.depth),
                                 static_cast<size_t>(problem.depth));
}

int64_t bias_of(const GemmProblem& problem, int64_t column) {
  return problem.bias.empty() ? 0 : problem.bias[static_cast<size_t>(column)];
}

int64_t column_bound(const GemmProblem& problem, int64_t column, int sum = 0) {
  int64_t weights = 0;
  for (const int16_t w : column_weights(problem, column, sum)) weights += std::abs(w);
  const int64_t largest_input = std::max(problem.zero_code, problem.quant_max - problem.zero_code);
  return largest_input * weights + std::abs(bias_of(problem, column));
}

// Of t, from valid accumulators; 2^62 where it is that or more.
int64_t combined_bound(const GemmProblem& problem, int64_t column) {
  const Combination& combination = problem.requantization.combination;
  const auto magnitude = [](int64_t x) { return x < 0 ? -__int128{x} : __int128{x}; };
  __int128 bound = magnitude(combination.constants[static_cast<size_t>(column)]);
  for (int k = 0; k < problem.sums(); ++k) {
    bound += magnitude(combination.multipliers[static_cast<size_t>(k * problem.columns + column)]) *
             column_bound(problem, column, k);
  }
  return static_cast<int64_t>(std::min<__int128>(bound, largest_total));
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
  validate(problem.requantization, problem.columns, operation);
  const bool combines = !problem.requantization.combination.empty();
  const int64_t rows = problem.sums() * problem.columns;
  require(weight_count % problem.depth == 0 && weight_count / problem.depth == rows,
          "{}: there must be {} x {} weights, got {}", operation, rows, problem.depth, weight_count);
  const int64_t biases = combines ? 0 : problem.columns;
  require(static_cast<int64_t>(problem.bias.size()) == biases, "{}: bias must have {} entries, got {}", operation,
          biases, problem.bias.size());
  for (int64_t n = 0; n < problem.columns; ++n) {
    for (int k = 0; k < problem.sums(); ++k) {
      const int64_t bound = column_bound(problem, n, k);
      require(bound <= std::numeric_limits<int32_t>::max(),
              "{}: the accumulator of output channel {} may reach {}, which overflows int32: max|input - zero_code| * "
              "sum|weight| + |bias| "
              "must be below 2^31",
              operation, n, bound);
    }
    require(!combines || combined_bound(problem, n) < largest_total,
            "{}: the combined sums of output channel {} must stay below 2^62", operation, n);
  }
}

int64_t accumulator_bound(const GemmProblem& problem) {
  int64_t bound = 0;
  const bool combines = !problem.requantization.combination.empty();
  for (int64_t n = 0; n < problem.columns; ++n) {
    bound = std::max(bound, combines ? combined_bound(problem, n) : column_bound(problem, n));
  }
  return bound;
}

int32_t folded_bias(const GemmProblem& problem, int64_t column, int sum) {
  int64_t weights = 0;
  for (const int16_t w : column_weights(problem, column, sum)) weights += w;
  return static_cast<int32_t>(bias_of(problem, column) - problem.zero_code * weights);
}

}  // namespace qstep::kernels
