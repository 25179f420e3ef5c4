#pragma once
// IAO's fake quantization on one element of memory: what the loops of the CPU (loops.h) and of CUDA (cuda_loops.cuh)
// run. T is float, double, BFloat16 or Float16; the arithmetic runs in Compute<T>.
#include <cstdint>

#include "qstep/methods/half_types.h"
#include "qstep/methods/iao/math.h"
#include "qstep/methods/tiling.h"

namespace qstep::methods::iao {

/// Raw pointers into dense memory, host's or device's.
template <class T>
struct Operands {
  const T* x;                    ///< every element of the layout
  const Compute<T>* scale;       ///< one per channel, > 0
  const Compute<T>* zero_point;  ///< one per channel, integers of [quant_min, quant_max]
  int32_t quant_min;
  int32_t quant_max;

  QSTEP_HOST_DEVICE Grid<Compute<T>> grid(int64_t channel) const {
    return {scale[channel], zero_point[channel], static_cast<Compute<T>>(quant_min),
            static_cast<Compute<T>>(quant_max)};
  }
};

template <class T, Rounding rounding>
struct Forward {
  Operands<T> operands;
  T* output;

  QSTEP_HOST_DEVICE Grid<Compute<T>> grid(int64_t channel) const { return operands.grid(channel); }
  QSTEP_HOST_DEVICE void apply(int64_t i, const Grid<Compute<T>>& grid) const {
    store(fake_quantize<rounding>(load(operands.x[i]), grid), output[i]);
  }
};

template <class T>
struct Backward {
  Operands<T> operands;
  const T* grad_output;
  T* grad_x;

  QSTEP_HOST_DEVICE Grid<Compute<T>> grid(int64_t channel) const { return operands.grid(channel); }
  QSTEP_HOST_DEVICE void apply(int64_t i, const Grid<Compute<T>>& grid) const {
    store(gradient(load(operands.x[i]), load(grad_output[i]), grid), grad_x[i]);
  }
};

}  // namespace qstep::methods::iao
