#pragma once
// PACT on one element of memory: what the loops of the CPU (loops.h) and of CUDA (cuda_loops.cuh) run.
// T is float, double, BFloat16 or Float16; the arithmetic runs in Compute<T>.
#include <cstdint>

#include "qstep/methods/half_types.h"
#include "qstep/methods/pact/math.h"
#include "qstep/methods/tiling.h"

namespace qstep::methods::pact {

/// Raw pointers into dense memory, host's or device's.
template <class T>
struct Operands {
  const T* x;               ///< every element of the layout
  const Compute<T>* alpha;  ///< one, > 0
  int32_t levels;
  bool is_signed;

  QSTEP_HOST_DEVICE Grid<Compute<T>> grid(int64_t) const { return grid_of(*alpha, levels, is_signed); }
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

/// The gradient of alpha is the first term; no second.
template <class T, AlphaGradient kind>
struct Backward {
  Operands<T> operands;
  const T* grad_output;
  T* grad_x;

  QSTEP_HOST_DEVICE Grid<Compute<T>> grid(int64_t channel) const { return operands.grid(channel); }
  QSTEP_HOST_DEVICE Terms<Compute<T>> apply(int64_t i, const Grid<Compute<T>>& grid) const {
    const Gradient<Compute<T>> gradients = gradient<kind>(load(operands.x[i]), load(grad_output[i]), grid);
    store(gradients.x, grad_x[i]);
    return {gradients.alpha, Compute<T>(0)};
  }
};

}  // namespace qstep::methods::pact
