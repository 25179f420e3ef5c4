#pragma once
// The rows of the tables of pool.h.
#include "qstep/kernels/pool/pool.h"

namespace qstep::kernels {

void max_pool2d_reference(const MaxPool2dProblem& problem, const PoolArguments& arguments, Range items);
void max_pool2d_avx2(const MaxPool2dProblem& problem, const PoolArguments& arguments, Range items);

void avg_pool2d_reference(const AvgPool2dProblem& problem, const PoolArguments& arguments, Range items);
void avg_pool2d_avx2(const AvgPool2dProblem& problem, const PoolArguments& arguments, Range items);

/// The code of one window, given the sum of its codes (not centred) over `taps` taps inside the image and its divisor
/// n.
uint8_t average_code(const AvgPool2dProblem& problem, int64_t sum, int64_t taps, int64_t divisor);

}  // namespace qstep::kernels
