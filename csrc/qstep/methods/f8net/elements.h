#pragma once
// Fixed-point quantization on one element of memory: what the loops of the CPU (loops.h) and of CUDA (cuda_loops.cuh)
// run. T is float, double, BFloat16 or Float16; the arithmetic runs in Compute<T>.
#include <cstdint>

#include "qstep/methods/f8net/math.h"
#include "qstep/methods/half_types.h"
#include "qstep/methods/tiling.h"

namespace qstep::methods::f8net {

/// Raw pointers into dense memory, host's or device's.
template <class T>
struct Operands {
  const T* x;                      ///< every element of the layout
  const int32_t* fraction_length;  ///< one; in the range of the word length
  int32_t word_length;
  bool is_signed;

  QSTEP_HOST_DEVICE Format<Compute<T>> grid(int64_t /*channel*/) const {
    return format_of<Compute<T>>(*fraction_length, word_length, is_signed);
  }
};

template <class T>
struct Forward {
  Operands<T> operands;
  T* output;

  QSTEP_HOST_DEVICE Format<Compute<T>> grid(int64_t channel) const { return operands.grid(channel); }
  QSTEP_HOST_DEVICE void apply(int64_t i, const Format<Compute<T>>& format) const {
    store(fixed_point(load(operands.x[i]), format), output[i]);
  }
};

template <class T, Mask mask>
struct Backward {
  Operands<T> operands;
  const T* grad_output;
  T* grad_x;

  QSTEP_HOST_DEVICE Format<Compute<T>> grid(int64_t channel) const { return operands.grid(channel); }
  QSTEP_HOST_DEVICE void apply(int64_t i, const Format<Compute<T>>& format) const {
    store(gradient<mask>(load(operands.x[i]), load(grad_output[i]), format), grad_x[i]);
  }
};

}  // namespace qstep::methods::f8net
