#pragma once
// Depthwise convolution with windows of 3x3 on AVX-512 VNNI, at strides of 1 and 2. Nothing is staged: codes are read where
// they lie, those of padding from a pixel of zero codes, and taps are put together in registers.
#include <memory>

#include "qstep/kernels/conv2d/conv2d.h"

namespace qstep::kernels::avx512vnni {

bool supports_depthwise_3x3(const Conv2dProblem& problem);
std::unique_ptr<PackedConv2d> pack_depthwise_3x3(const Conv2dProblem& problem);

}  // namespace qstep::kernels::avx512vnni
