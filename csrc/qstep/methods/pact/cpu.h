#pragma once
// PACT on the CPU: raw pointers into dense memory, no torch. Tiles and threads as in lsq_plus/cpu.h.
#include <cstdint>

#include "qstep/methods/pact/elements.h"

namespace qstep::methods::pact {

/// x_hat, laid out as x.
template <class T>
void forward(const Operands<T>& operands, T* output, const Tiling& tiling, int64_t first, int64_t last);

/// Both gradients in one pass over x and grad_output, which are laid out alike, as grad_x is. That of alpha is left as
/// partial sums in sums.scale, to be added in order.
template <class T>
void backward(const Operands<T>& operands, AlphaGradient kind, const T* grad_output, T* grad_x, PartialSums sums,
              const Tiling& tiling, int64_t first, int64_t last);

}  // namespace qstep::methods::pact
