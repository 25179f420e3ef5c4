#pragma once
// IAO's fake quantization on CUDA: pointers into dense device memory, no torch. Every call is queued on
// `stream`, returns at once and says whether it was accepted.
#include <cuda_runtime_api.h>

#include "qstep/methods/iao/elements.h"

namespace qstep::methods::iao {

/// x_hat, laid out as x.
template <class T>
cudaError_t forward_cuda(const Operands<T>& operands, Rounding rounding, T* output, const Tiling& tiling,
                         cudaStream_t stream);

/// grad_x; x, grad_output and grad_x are laid out alike.
template <class T>
cudaError_t backward_cuda(const Operands<T>& operands, const T* grad_output, T* grad_x, const Tiling& tiling,
                          cudaStream_t stream);

/// Grids of n ranges. scale receives doubles, zero_point integers.
cudaError_t affine_params_cuda(const double* min, const double* max, int64_t n, int32_t quant_min, int32_t quant_max,
                               bool symmetric, double* scale, int32_t* zero_point, cudaStream_t stream);

}  // namespace qstep::methods::iao
