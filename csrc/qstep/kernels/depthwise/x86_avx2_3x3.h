#pragma once
// Depthwise convolution with windows of 3x3 on AVX2, at column strides of 1 and 2. Codes are read where they lie, those of
// padding from a pixel of zero codes, and staged in pairs of taps.
#include <memory>

#include "qstep/kernels/conv2d/conv2d.h"

namespace qstep::kernels::avx2 {

bool supports_depthwise_3x3(const Conv2dProblem& problem);
std::unique_ptr<PackedConv2d> pack_depthwise_3x3(const Conv2dProblem& problem);

}  // namespace qstep::kernels::avx2
