#pragma once
#include <memory>

#include "qstep/kernels/conv2d/conv2d.h"

namespace qstep::kernels {

/// The formula's loops as they stand, bounds check at every tap.
std::unique_ptr<PackedConv2d> pack_conv2d_reference(const Conv2dProblem& problem);
/// The same with shifts instead of products, for weights that are powers of two.
std::unique_ptr<PackedConv2d> pack_conv2d_shift_add(const Conv2dProblem& problem);

}  // namespace qstep::kernels
