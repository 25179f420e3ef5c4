#pragma once
// The rows of the elementwise tables.
#include "qstep/kernels/elementwise/bilinear.h"
#include "qstep/kernels/elementwise/lookup.h"
#include "qstep/kernels/elementwise/quantize.h"

namespace qstep::kernels {

void bilinear_reference(const BilinearProblem& problem, const BilinearArguments& arguments, Range items);
void bilinear_avx2(const BilinearProblem& problem, const BilinearArguments& arguments, Range items);
/// Where SplitSum::supports(problem).
void bilinear_sum_avx2(const BilinearProblem& problem, const BilinearArguments& arguments, Range items);
void bilinear_sum_avx512(const BilinearProblem& problem, const BilinearArguments& arguments, Range items);
/// Where FloorSum::supports(problem).
void bilinear_floor_avx2(const BilinearProblem& problem, const BilinearArguments& arguments, Range items);
void bilinear_floor_avx512(const BilinearProblem& problem, const BilinearArguments& arguments, Range items);
/// Where NarrowSum::supports(problem).
void bilinear_narrow_avx2(const BilinearProblem& problem, const BilinearArguments& arguments, Range items);
void bilinear_narrow_avx512(const BilinearProblem& problem, const BilinearArguments& arguments, Range items);
/// Where is_shift(problem).
void bilinear_shift_reference(const BilinearProblem& problem, const BilinearArguments& arguments, Range items);
void bilinear_shift_avx2(const BilinearProblem& problem, const BilinearArguments& arguments, Range items);

void lookup_reference(const LookupProblem& problem, const LookupArguments& arguments, Range items);
void lookup_avx2(const LookupProblem& problem, const LookupArguments& arguments, Range items);

bool quantize_reference(const float* input, int64_t count, const core::Grid& grid, uint8_t* output,
                        int64_t output_stride);
bool quantize_avx2(const float* input, int64_t count, const core::Grid& grid, uint8_t* output, int64_t output_stride);

void dequantize_reference(const uint8_t* input, int64_t input_stride, int64_t count, const core::Grid& grid,
                          float* output);
void dequantize_avx2(const uint8_t* input, int64_t input_stride, int64_t count, const core::Grid& grid, float* output);

void dequantize_accumulators_reference(const int32_t* input, int64_t input_stride, int64_t count, double scale,
                                       float* output);
void dequantize_accumulators_avx2(const int32_t* input, int64_t input_stride, int64_t count, double scale,
                                  float* output);

}  // namespace qstep::kernels
