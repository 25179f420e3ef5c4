#pragma once
// Piecewise linear quantization on CUDA: pointers into dense device memory, no torch. Every call is queued on
// `stream`, returns at once and says whether it was accepted.
#include <cuda_runtime_api.h>

#include "qstep/methods/pwlq/elements.h"

namespace qstep::methods::pwlq {

/// w_hat, laid out as w.
template <class T>
cudaError_t quantize_cuda(const Operands<T>& operands, T* output, const Tiling& tiling, cudaStream_t stream);

/// Breakpoints of `channels` channels.
cudaError_t estimate_cuda(const FromStatistics& element, int64_t channels, cudaStream_t stream);

}  // namespace qstep::methods::pwlq
