#pragma once
// LSQ+ on one element of memory: what the loops of the CPU (loops.h) and of CUDA (cuda_loops.cuh) run.
// T is float, double, BFloat16 or Float16; the arithmetic runs in Compute<T>.
#include <cstdint>

#include "qstep/methods/half_types.h"
#include "qstep/methods/lsq_plus/math.h"
#include "qstep/methods/tiling.h"

namespace qstep::methods::lsq_plus {

/// Raw pointers into dense memory, host's or device's.
template <class T>
struct Operands {
  const T* x;                ///< every element of the layout
  const Compute<T>* scale;   ///< one per channel, > 0
  const Compute<T>* offset;  ///< one per channel
  int32_t quant_min;
  int32_t quant_max;

  QSTEP_HOST_DEVICE Grid<Compute<T>> grid(int64_t channel) const {
    return {scale[channel], offset[channel], static_cast<Compute<T>>(quant_min), static_cast<Compute<T>>(quant_max)};
  }
};

template <class T>
struct Forward {
  Operands<T> operands;
  T* output;

  QSTEP_HOST_DEVICE Grid<Compute<T>> grid(int64_t channel) const { return operands.grid(channel); }
  QSTEP_HOST_DEVICE void apply(int64_t i, const Grid<Compute<T>>& grid) const {
    store(fake_quantize(load(operands.x[i]), grid), output[i]);
  }
};

template <class T, Boundary boundary>
struct Backward {
  Operands<T> operands;
  const T* grad_output;
  T* grad_x;

  QSTEP_HOST_DEVICE Grid<Compute<T>> grid(int64_t channel) const { return operands.grid(channel); }
  QSTEP_HOST_DEVICE Terms<Compute<T>> apply(int64_t i, const Grid<Compute<T>>& grid) const {
    const Gradient<Compute<T>> gradients = gradient<boundary>(load(operands.x[i]), load(grad_output[i]), grid);
    store(gradients.x, grad_x[i]);
    return {gradients.scale, gradients.offset};
  }
};

/// The squared quantization error as the first term; no second.
struct SquaredError {
  const float* x;
  Grid<float> per_tensor;

  QSTEP_HOST_DEVICE Grid<float> grid(int64_t) const { return per_tensor; }
  QSTEP_HOST_DEVICE Terms<float> apply(int64_t i, const Grid<float>& grid) const {
    const float error = fake_quantize(x[i], grid) - x[i];
    return {error * error, 0.0F};
  }
};

}  // namespace qstep::methods::lsq_plus
