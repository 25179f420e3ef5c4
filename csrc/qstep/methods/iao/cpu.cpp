#include "qstep/methods/iao/cpu.h"

#include "qstep/methods/loops.h"

namespace qstep::methods::iao {

template <class T>
void forward(const Operands<T>& operands, Rounding rounding, T* output, const Tiling& tiling, int64_t first,
             int64_t last) {
  if (rounding == Rounding::half_even) {
    for_each_element(Forward<T, Rounding::half_even>{operands, output}, tiling, first, last);
  } else {
    for_each_element(Forward<T, Rounding::half_up>{operands, output}, tiling, first, last);
  }
}

template <class T>
void backward(const Operands<T>& operands, const T* grad_output, T* grad_x, const Tiling& tiling, int64_t first,
              int64_t last) {
  for_each_element(Backward<T>{operands, grad_output, grad_x}, tiling, first, last);
}

#define QSTEP_INSTANTIATE(T)                                                                   \
  template void forward<T>(const Operands<T>&, Rounding, T*, const Tiling&, int64_t, int64_t); \
  template void backward<T>(const Operands<T>&, const T*, T*, const Tiling&, int64_t, int64_t);
QSTEP_INSTANTIATE(float)
QSTEP_INSTANTIATE(double)
QSTEP_INSTANTIATE(BFloat16)
QSTEP_INSTANTIATE(Float16)
#undef QSTEP_INSTANTIATE

}  // namespace qstep::methods::iao
