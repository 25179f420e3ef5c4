#include "qstep/methods/cuda_loops.cuh"
#include "qstep/methods/inq/cuda.h"

namespace qstep::methods::inq {

template <class T>
cudaError_t forward_cuda(const Forward<T>& element, const Tiling& tiling, cudaStream_t stream) {
  return for_each_element_cuda(element, tiling.layout(), stream);
}

#define QSTEP_INSTANTIATE(T) template cudaError_t forward_cuda<T>(const Forward<T>&, const Tiling&, cudaStream_t);
QSTEP_INSTANTIATE(float)
QSTEP_INSTANTIATE(double)
QSTEP_INSTANTIATE(BFloat16)
QSTEP_INSTANTIATE(Float16)
#undef QSTEP_INSTANTIATE

}  // namespace qstep::methods::inq
