#pragma once
// Convolution with products by table (gemm/pair_tables.h).
#include <memory>

#include "qstep/core/error.h"
#include "qstep/kernels/conv2d/panel_conv2d.h"

namespace qstep::kernels {

/// True where no pair has codes of two taps or what is no code.
template <class Arithmetic>
bool has_whole_pairs(const Conv2dProblem& problem) {
  const bool has_one_tap = problem.window.kernel[0] == 1 && problem.window.kernel[1] == 1;
  return (has_one_tap || problem.in_channels / problem.groups % 2 == 0) && reads_codes_only<Arithmetic>(problem);
}

template <class Arithmetic>
bool supports_pair_tables_conv2d(const Conv2dProblem& problem) {
  return has_whole_pairs<Arithmetic>(problem) && Arithmetic::supports(as_gemm(problem), problem.groups);
}

/// True where this is faster than a direct convolution, and than one by Winograd where that takes
/// `cost_of_winograd` < 1 of the direct one's time. Whether it does is asked last: the answer transforms all weights.
template <class Arithmetic, bool (*takes_winograd)(const Conv2dProblem&)>
bool suits_pair_tables_conv2d(const Conv2dProblem& problem, double cost_of_winograd) {
  const double cost = Arithmetic::relative_cost(as_gemm(problem), problem.groups);
  return cost < cost_of_winograd || (cost < 1 && !takes_winograd(problem));
}

template <class Arithmetic>
std::unique_ptr<PackedConv2d> pack_pair_tables_conv2d(const Conv2dProblem& problem) {
  require(has_whole_pairs<Arithmetic>(problem),
          "conv2d: products by table take whole pairs of input channels, got {} channels",
          problem.in_channels / problem.groups);
  return pack_panel_conv2d<Arithmetic>(problem);
}

}  // namespace qstep::kernels
