#pragma once
// The rows of the tables of pool.h.
#include "qstep/kernels/pool/pool.h"

namespace qstep::kernels {

void max_pool2d_reference(const MaxPool2dProblem& problem, const PoolArguments& arguments, Range items);
void max_pool2d_avx2(const MaxPool2dProblem& problem, const PoolArguments& arguments, Range items);

void avg_pool2d_reference(const AvgPool2dProblem& problem, const PoolArguments& arguments, Range items);
void avg_pool2d_avx2(const AvgPool2dProblem& problem, const PoolArguments& arguments, Range items);
/// Where is_shift(problem).
void avg_pool2d_shift_reference(const AvgPool2dProblem& problem, const PoolArguments& arguments, Range items);
void avg_pool2d_shift_avx2(const AvgPool2dProblem& problem, const PoolArguments& arguments, Range items);

/// The code of one window, given the sum of its codes (not centred) over `taps` taps inside the image and its divisor.
uint8_t average_code(const AvgPool2dProblem& problem, int64_t sum, int64_t taps, int64_t divisor);
/// The same where is_shift(problem).
uint8_t average_code_by_shift(const AvgPool2dProblem& problem, int64_t sum, int64_t taps);

}  // namespace qstep::kernels
