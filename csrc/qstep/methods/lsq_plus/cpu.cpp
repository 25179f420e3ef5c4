#include "qstep/methods/lsq_plus/cpu.h"

#include <numeric>
#include <vector>

namespace qstep::methods::lsq_plus {
namespace {

template <class T>
QSTEP_ALWAYS_INLINE Grid<Compute<T>> channel_grid(const Operands<T>& operands, int64_t channel) {
  using F = Compute<T>;
  return {operands.scale[channel], operands.offset[channel], static_cast<F>(operands.quant_min), static_cast<F>(operands.quant_max)};
}

template <class T>
struct Forward {
  Operands<T> operands;
  T* output;

  QSTEP_ALWAYS_INLINE auto grid(int64_t channel) const { return channel_grid(operands, channel); }
  QSTEP_ALWAYS_INLINE void apply(int64_t i, const Grid<Compute<T>>& grid) const {
    store(fake_quantize(load(operands.x[i]), grid), output[i]);
  }
};

template <class T, Boundary boundary>
struct Backward {
  Operands<T> operands;
  const T* grad_output;
  T* grad_x;

  QSTEP_ALWAYS_INLINE auto grid(int64_t channel) const { return channel_grid(operands, channel); }
  QSTEP_ALWAYS_INLINE Terms<Compute<T>> apply(int64_t i, const Grid<Compute<T>>& grid) const {
    const Gradient<Compute<T>> terms = gradient<boundary>(load(operands.x[i]), load(grad_output[i]), grid);
    store(terms.x, grad_x[i]);
    return {terms.scale, terms.offset};
  }
};

struct SquaredError {
  const float* x;
  Grid<float> per_tensor;

  QSTEP_ALWAYS_INLINE Grid<float> grid(int64_t) const { return per_tensor; }
  QSTEP_ALWAYS_INLINE Terms<float> apply(int64_t i, const Grid<float>& grid) const {
    const float error = fake_quantize(x[i], grid) - x[i];
    return {error * error, 0.0F};
  }
};

}  // namespace

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
    sum_elements<Compute<T>>(Backward<T, Boundary::inclusive>{operands, grad_output, grad_x}, sums, tiling, first, last);
  }
}

double sum_squared_error(const float* x, int64_t n, const Grid<float>& grid) {
  const Tiling tiling({.outer = 1, .channels = 1, .inner = n});
  std::vector<double> sums(static_cast<size_t>(2 * tiling.partial_rows()));
  const PartialSums partial{sums.data(), sums.data() + tiling.partial_rows()};
  sum_elements<float>(SquaredError{x, grid}, partial, tiling, 0, tiling.tiles());
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

#define QSTEP_INSTANTIATE(T)                                                            \
  template void forward<T>(const Operands<T>&, T*, const Tiling&, int64_t, int64_t); \
  template void backward<T>(const Operands<T>&, Boundary, const T*, T*, PartialSums, const Tiling&, int64_t, int64_t);
QSTEP_INSTANTIATE(float)
QSTEP_INSTANTIATE(double)
QSTEP_INSTANTIATE(BFloat16)
QSTEP_INSTANTIATE(Float16)
#undef QSTEP_INSTANTIATE

}  // namespace qstep::methods::lsq_plus
