#pragma once
// PACT on CUDA: pointers into dense device memory, no torch. Every call is queued on `stream`, returns at once and says
// whether it was accepted.
#include <cuda_runtime_api.h>

#include "qstep/methods/pact/elements.h"

namespace qstep::methods::pact {

/// x_hat, laid out as x.
template <class T>
cudaError_t forward_cuda(const Operands<T>& operands, T* output, const Tiling& tiling, cudaStream_t stream);

/// Both gradients in one pass over x and grad_output. `partial` has room for tiling.partial_rows() sums, `totals` for one;
/// that of alpha is totals.scale. Deterministic.
template <class T>
cudaError_t backward_cuda(const Operands<T>& operands, AlphaGradient kind, const T* grad_output, T* grad_x,
                          PartialSums partial, PartialSums totals, const Tiling& tiling, cudaStream_t stream);

}  // namespace qstep::methods::pact
