#pragma once
// IAO's fake quantization on the CPU: raw pointers into dense memory, no torch. T, tiles and threads as in lsq_plus/cpu.h.
#include <cstdint>

#include "qstep/methods/half_types.h"
#include "qstep/methods/iao/math.h"
#include "qstep/methods/tiling.h"

namespace qstep::methods::iao {

template <class T>
struct Operands {
  const T* x;                    ///< every element of the tiling's layout
  const Compute<T>* scale;       ///< one per channel, > 0
  const Compute<T>* zero_point;  ///< one per channel, integers of [quant_min, quant_max]
  int32_t quant_min;
  int32_t quant_max;
};

/// x_hat, laid out as x.
template <class T>
void forward(const Operands<T>& operands, Rounding rounding, T* output, const Tiling& tiling, int64_t first, int64_t last);

/// grad_x; x, grad_output and grad_x are laid out alike.
template <class T>
void backward(const Operands<T>& operands, const T* grad_output, T* grad_x, const Tiling& tiling, int64_t first, int64_t last);

}  // namespace qstep::methods::iao
