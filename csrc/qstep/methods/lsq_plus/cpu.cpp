#include "qstep/methods/lsq_plus/cpu.h"

#include <numeric>
#include <vector>

#include "qstep/methods/loops.h"

namespace qstep::methods::lsq_plus {

template <class T>
void forward(const Operands<T>& operands, T* output, const Tiling& tiling, int64_t first, int64_t last) {
  for_each_element(Forward<T>{operands, output}, tiling, first, last);
}

template <class T>
void backward(const Operands<T>& operands, Boundary boundary, const T* grad_output, T* grad_x, PartialSums sums,
              const Tiling& tiling, int64_t first, int64_t last) {
  if (boundary == Boundary::strict) {
    sum_elements<Compute<T>>(Backward<T, Boundary::strict>{operands, grad_output, grad_x}, sums, tiling, first, last);
  } else {
    sum_elements<Compute<T>>(Backward<T, Boundary::inclusive>{operands, grad_output, grad_x}, sums, tiling, first,
                             last);
  }
}

double sum_squared_error(const float* x, int64_t n, const Grid<float>& grid) {
  const Tiling tiling({.outer = 1, .channels = 1, .inner = n});
  std::vector<double> sums(static_cast<size_t>(2 * tiling.partial_rows()));
  const PartialSums partial{sums.data(), sums.data() + tiling.partial_rows()};
  sum_elements<float>(SquaredError{x, grid}, partial, tiling, 0, tiling.tiles());
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

#define QSTEP_INSTANTIATE(T)                                                         \
  template void forward<T>(const Operands<T>&, T*, const Tiling&, int64_t, int64_t); \
  template void backward<T>(const Operands<T>&, Boundary, const T*, T*, PartialSums, const Tiling&, int64_t, int64_t);
QSTEP_INSTANTIATE(float)
QSTEP_INSTANTIATE(double)
QSTEP_INSTANTIATE(BFloat16)
QSTEP_INSTANTIATE(Float16)
#undef QSTEP_INSTANTIATE

}  // namespace qstep::methods::lsq_plus
