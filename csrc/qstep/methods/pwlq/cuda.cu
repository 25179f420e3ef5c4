#include "qstep/methods/cuda_loops.cuh"
#include "qstep/methods/pwlq/cuda.h"

namespace qstep::methods::pwlq {

template <class T>
cudaError_t quantize_cuda(const Operands<T>& operands, T* output, const Tiling& tiling, cudaStream_t stream) {
  return for_each_element_cuda(Quantize<T>{operands, output}, tiling.layout(), stream);
}

cudaError_t estimate_cuda(const FromStatistics& element, int64_t channels, cudaStream_t stream) {
  return for_each_element_cuda(element, {.outer = 1, .channels = channels, .inner = 1}, stream);
}

#define QSTEP_INSTANTIATE(T) template cudaError_t quantize_cuda<T>(const Operands<T>&, T*, const Tiling&, cudaStream_t);
QSTEP_INSTANTIATE(float)
QSTEP_INSTANTIATE(double)
QSTEP_INSTANTIATE(BFloat16)
QSTEP_INSTANTIATE(Float16)
#undef QSTEP_INSTANTIATE

}  // namespace qstep::methods::pwlq
