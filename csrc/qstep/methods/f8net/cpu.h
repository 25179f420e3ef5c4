#pragma once
// Fixed-point quantization on the CPU: raw pointers into dense memory, no torch. Tiles and threads as in lsq_plus/cpu.h.
#include <cstdint>

#include "qstep/methods/f8net/elements.h"

namespace qstep::methods::f8net {

/// x_hat, laid out as x.
template <class T>
void forward(const Operands<T>& operands, T* output, const Tiling& tiling, int64_t first, int64_t last);

/// grad_x; x, grad_output and grad_x are laid out alike.
template <class T>
void backward(const Operands<T>& operands, Mask mask, const T* grad_output, T* grad_x, const Tiling& tiling,
              int64_t first, int64_t last);

}  // namespace qstep::methods::f8net
