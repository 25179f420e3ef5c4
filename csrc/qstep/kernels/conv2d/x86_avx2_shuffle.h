#pragma once
// Convolution with products by table (gemm/x86_avx2_shuffle.h).
#include <memory>

#include "qstep/core/error.h"
#include "qstep/kernels/conv2d/panel_conv2d.h"
#include "qstep/kernels/gemm/x86_avx2.h"
#include "qstep/kernels/gemm/x86_avx2_shuffle.h"
#include "qstep/kernels/winograd/winograd_conv2d.h"
#include "qstep/kernels/winograd/x86_avx2.h"

namespace qstep::kernels::avx2 {

/// True where no pair has codes of two taps, and nothing is read behind a row of the window.
inline bool has_whole_pairs(const Conv2dProblem& problem) {
  const bool has_one_tap = problem.window.kernel[0] == 1 && problem.window.kernel[1] == 1;
  return (has_one_tap || problem.in_channels / problem.groups % 2 == 0) && row_padding<Shuffle8>(problem) == 0;
}

inline bool supports_shuffle_conv2d(const Conv2dProblem& problem) {
  // Measured on 3x3 layers with 64 to 512 channels: 0.60 to 0.70 of the direct kernel on vpmaddubsw.
  constexpr double cost_of_winograd = 0.62;
  const GemmProblem gemm = as_gemm(problem);
  if (!has_whole_pairs(problem) || !Shuffle8::supports(gemm, problem.groups)) return false;
  return !winograd::supports_winograd_conv2d<winograd::avx2::Maddubs16>(problem) ||
         Shuffle8::relative_cost(gemm, problem.groups) < cost_of_winograd * Maddubs16::relative_cost(gemm);
}

inline std::unique_ptr<PackedConv2d> pack_shuffle_conv2d(const Conv2dProblem& problem) {
  require(has_whole_pairs(problem), "conv2d: products by table take whole pairs of input channels, got {} channels",
          problem.in_channels / problem.groups);
  return pack_panel_conv2d<Shuffle8>(problem);
}

}  // namespace qstep::kernels::avx2
