#pragma once
// Fixed-point quantization on CUDA: pointers into dense device memory, no torch. Every call is queued on `stream`,
// returns at once and says whether it was accepted.
#include <cuda_runtime_api.h>

#include "qstep/methods/f8net/elements.h"

namespace qstep::methods::f8net {

/// x_hat, laid out as x.
template <class T>
cudaError_t forward_cuda(const Operands<T>& operands, T* output, const Tiling& tiling, cudaStream_t stream);

/// grad_x; x, grad_output and grad_x are laid out alike.
template <class T>
cudaError_t backward_cuda(const Operands<T>& operands, Mask mask, const T* grad_output, T* grad_x, const Tiling& tiling,
                          cudaStream_t stream);

}  // namespace qstep::methods::f8net
