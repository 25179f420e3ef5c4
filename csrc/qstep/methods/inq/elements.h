#pragma once
// INQ's quantization on one element of memory: what the loops of the CPU (loops.h) and of CUDA (cuda_loops.cuh) run.
// T is float, double, BFloat16 or Float16; the arithmetic runs in Compute<T>.
#include <cstdint>

#include "qstep/methods/half_types.h"
#include "qstep/methods/inq/math.h"

namespace qstep::methods::inq {

/// Raw pointers into dense memory, host's or device's.
template <class T>
struct Forward {
  const T* w;
  const int32_t* n1;  ///< one element
  int32_t bit_width;
  T* output;

  QSTEP_HOST_DEVICE Levels<Compute<T>> grid(int64_t /*channel*/) const { return levels_of<Compute<T>>(*n1, bit_width); }
  QSTEP_HOST_DEVICE void apply(int64_t i, const Levels<Compute<T>>& levels) const {
    store(quantize(load(w[i]), levels), output[i]);
  }
};

}  // namespace qstep::methods::inq
