#include "qstep/kernels/gemm/packed_bits.h"

#include <algorithm>
#include <vector>

#include "qstep/core/error.h"
#include "qstep/kernels/gemm/pack_panels.h"

namespace qstep::kernels {

template <int bits>
bool PackedBits<bits>::supports(const GemmProblem& problem) {
  auto [smallest, largest] = std::ranges::minmax(problem.weights);
  if (problem.sums() > 1) {  // zeros stand where there are no columns (panel_gemm.h)
    smallest = std::min<int16_t>(smallest, 0);
    largest = std::max<int16_t>(largest, 0);
  }
  return largest - smallest < 1 << bits;
}

template <int bits>
PackedBits<bits>::PackedBits(const GemmProblem& problem, int64_t groups_of_columns)
    : offset(std::ranges::min(problem.weights)), groups(ceil_divide(problem.depth, group_depth)) {
  require(supports(problem), "gemm: these weights do not fit {} bits", bits);
  std::vector<int16_t> from_zero(problem.weights.begin(), problem.weights.end());
  for (int16_t& w : from_zero) w = static_cast<int16_t>(w - offset);
  GemmProblem unsigned_problem = problem;
  unsigned_problem.weights = from_zero;
  AlignedVector<int8_t> expanded;
  pack_panels<step_depth>(unsigned_problem, groups_of_columns, groups * group_steps, expanded);

  weights.resize(expanded.size() / group_steps, 0);
  for (size_t i = 0; i < expanded.size(); ++i) {
    const size_t step = i / step_weights;
    weights[step / group_steps * step_weights + i % step_weights] |=
        static_cast<uint8_t>(expanded[i] << step % group_steps * bits);
  }
}

template struct PackedBits<2>;
template struct PackedBits<4>;

}  // namespace qstep::kernels
