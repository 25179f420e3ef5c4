#include "qstep/methods/inq/cpu.h"

#include "qstep/methods/loops.h"

namespace qstep::methods::inq {

template <class T>
void forward(const Forward<T>& element, const Tiling& tiling, int64_t first, int64_t last) {
  for_each_element(element, tiling, first, last);
}

#define QSTEP_INSTANTIATE(T) template void forward<T>(const Forward<T>&, const Tiling&, int64_t, int64_t);
QSTEP_INSTANTIATE(float)
QSTEP_INSTANTIATE(double)
QSTEP_INSTANTIATE(BFloat16)
QSTEP_INSTANTIATE(Float16)
#undef QSTEP_INSTANTIATE

}  // namespace qstep::methods::inq
