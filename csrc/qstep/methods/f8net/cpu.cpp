#include "qstep/methods/f8net/cpu.h"

#include "qstep/methods/loops.h"

namespace qstep::methods::f8net {

template <class T>
void forward(const Operands<T>& operands, T* output, const Tiling& tiling, int64_t first, int64_t last) {
  for_each_element(Forward<T>{operands, output}, tiling, first, last);
}

template <class T>
void backward(const Operands<T>& operands, Mask mask, const T* grad_output, T* grad_x, const Tiling& tiling,
              int64_t first, int64_t last) {
  if (mask == Mask::pact) {
    for_each_element(Backward<T, Mask::pact>{operands, grad_output, grad_x}, tiling, first, last);
  } else {
    for_each_element(Backward<T, Mask::reference>{operands, grad_output, grad_x}, tiling, first, last);
  }
}

#define QSTEP_INSTANTIATE(T)                                                         \
  template void forward<T>(const Operands<T>&, T*, const Tiling&, int64_t, int64_t); \
  template void backward<T>(const Operands<T>&, Mask, const T*, T*, const Tiling&, int64_t, int64_t);
QSTEP_INSTANTIATE(float)
QSTEP_INSTANTIATE(double)
QSTEP_INSTANTIATE(BFloat16)
QSTEP_INSTANTIATE(Float16)
#undef QSTEP_INSTANTIATE

}  // namespace qstep::methods::f8net
