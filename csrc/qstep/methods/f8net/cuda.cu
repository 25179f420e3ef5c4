#include "qstep/methods/cuda_loops.cuh"
#include "qstep/methods/f8net/cuda.h"

namespace qstep::methods::f8net {

template <class T>
cudaError_t forward_cuda(const Operands<T>& operands, T* output, const Tiling& tiling, cudaStream_t stream) {
  return for_each_element_cuda(Forward<T>{operands, output}, tiling.layout(), stream);
}

template <class T>
cudaError_t backward_cuda(const Operands<T>& operands, Mask mask, const T* grad_output, T* grad_x, const Tiling& tiling,
                          cudaStream_t stream) {
  if (mask == Mask::pact) {
    return for_each_element_cuda(Backward<T, Mask::pact>{operands, grad_output, grad_x}, tiling.layout(), stream);
  }
  return for_each_element_cuda(Backward<T, Mask::reference>{operands, grad_output, grad_x}, tiling.layout(), stream);
}

#define QSTEP_INSTANTIATE(T)                                                                 \
  template cudaError_t forward_cuda<T>(const Operands<T>&, T*, const Tiling&, cudaStream_t); \
  template cudaError_t backward_cuda<T>(const Operands<T>&, Mask, const T*, T*, const Tiling&, cudaStream_t);
QSTEP_INSTANTIATE(float)
QSTEP_INSTANTIATE(double)
QSTEP_INSTANTIATE(BFloat16)
QSTEP_INSTANTIATE(Float16)
#undef QSTEP_INSTANTIATE

}  // namespace qstep::methods::f8net
