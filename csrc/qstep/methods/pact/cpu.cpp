#include "qstep/methods/pact/cpu.h"

#include "qstep/methods/loops.h"

namespace qstep::methods::pact {

template <class T>
void forward(const Operands<T>& operands, T* output, const Tiling& tiling, int64_t first, int64_t last) {
  for_each_element(Forward<T>{operands, output}, tiling, first, last);
}

template <class T>
void backward(const Operands<T>& operands, AlphaGradient kind, const T* grad_output, T* grad_x, PartialSums sums,
              const Tiling& tiling, int64_t first, int64_t last) {
  if (kind == AlphaGradient::pact) {
    sum_elements<Compute<T>>(Backward<T, AlphaGradient::pact>{operands, grad_output, grad_x}, sums, tiling, first,
                             last);
  } else {
    sum_elements<Compute<T>>(Backward<T, AlphaGradient::ste>{operands, grad_output, grad_x}, sums, tiling, first, last);
  }
}

#define QSTEP_INSTANTIATE(T)                                                                                      \
  template void forward<T>(const Operands<T>&, T*, const Tiling&, int64_t, int64_t);                              \
  template void backward<T>(const Operands<T>&, AlphaGradient, const T*, T*, PartialSums, const Tiling&, int64_t, \
                            int64_t);
QSTEP_INSTANTIATE(float)
QSTEP_INSTANTIATE(double)
QSTEP_INSTANTIATE(BFloat16)
QSTEP_INSTANTIATE(Float16)
#undef QSTEP_INSTANTIATE

}  // namespace qstep::methods::pact
