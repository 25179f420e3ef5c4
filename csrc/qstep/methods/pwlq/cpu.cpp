#include "qstep/methods/pwlq/cpu.h"

#include "qstep/methods/loops.h"

namespace qstep::methods::pwlq {

template <class T>
void quantize(const Operands<T>& operands, T* output, const Tiling& tiling, int64_t first, int64_t last) {
  for_each_element(Quantize<T>{operands, output}, tiling, first, last);
}

void encode(const Encode<float>& element, const Tiling& tiling, int64_t first, int64_t last) {
  for_each_element(element, tiling, first, last);
}

#define QSTEP_INSTANTIATE(T) template void quantize<T>(const Operands<T>&, T*, const Tiling&, int64_t, int64_t);
QSTEP_INSTANTIATE(float)
QSTEP_INSTANTIATE(double)
QSTEP_INSTANTIATE(BFloat16)
QSTEP_INSTANTIATE(Float16)
#undef QSTEP_INSTANTIATE

}  // namespace qstep::methods::pwlq
