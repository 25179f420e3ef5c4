#include "qstep/methods/cuda_loops.cuh"
#include "qstep/methods/pact/cuda.h"

namespace qstep::methods::pact {

template <class T>
cudaError_t forward_cuda(const Operands<T>& operands, T* output, const Tiling& tiling, cudaStream_t stream) {
  return for_each_element_cuda(Forward<T>{operands, output}, tiling.layout(), stream);
}

template <class T>
cudaError_t backward_cuda(const Operands<T>& operands, AlphaGradient kind, const T* grad_output, T* grad_x,
                          PartialSums partial, PartialSums totals, const Tiling& tiling, cudaStream_t stream) {
  if (kind == AlphaGradient::pact) {
    const Backward<T, AlphaGradient::pact> element{operands, grad_output, grad_x};
    return sum_elements_cuda<Compute<T>>(element, partial, totals, tiling, stream);
  } else {
    const Backward<T, AlphaGradient::ste> element{operands, grad_output, grad_x};
    return sum_elements_cuda<Compute<T>>(element, partial, totals, tiling, stream);
  }
}

#define QSTEP_INSTANTIATE(T)                                                                                       \
  template cudaError_t forward_cuda<T>(const Operands<T>&, T*, const Tiling&, cudaStream_t);                       \
  template cudaError_t backward_cuda<T>(const Operands<T>&, AlphaGradient, const T*, T*, PartialSums, PartialSums, \
                                        const Tiling&, cudaStream_t);
QSTEP_INSTANTIATE(float)
QSTEP_INSTANTIATE(double)
QSTEP_INSTANTIATE(BFloat16)
QSTEP_INSTANTIATE(Float16)
#undef QSTEP_INSTANTIATE

}  // namespace qstep::methods::pact
