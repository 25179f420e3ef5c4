#pragma once
// INQ's quantization on CUDA: pointers into dense device memory, no torch. Queued on `stream`; returns at once and says
// whether it was accepted.
#include <cuda_runtime_api.h>

#include "qstep/methods/inq/elements.h"
#include "qstep/methods/tiling.h"

namespace qstep::methods::inq {

/// w_hat, laid out as w.
template <class T>
cudaError_t forward_cuda(const Forward<T>& element, const Tiling& tiling, cudaStream_t stream);

}  // namespace qstep::methods::inq
