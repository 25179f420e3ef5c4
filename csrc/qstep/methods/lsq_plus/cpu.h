#pragma once
// LSQ+ on the CPU: raw pointers into dense memory, no torch.
//
// Each function works on the tiles [first, last) of a Tiling, so that a caller may hand disjoint ranges to its
// threads; the results do not depend on the split.
#include <cstdint>

#include "qstep/methods/lsq_plus/elements.h"

namespace qstep::methods::lsq_plus {

/// x_hat, laid out as x.
template <class T>
void forward(const Operands<T>& operands, T* output, const Tiling& tiling, int64_t first, int64_t last);

/// All gradients in one pass over x and grad_output, which are laid out alike, as grad_x is. Those of the parameters
/// are left as partial sums, to be added over the rows in order.
template <class T>
void backward(const Operands<T>& operands, Boundary boundary, const T* grad_output, T* grad_x, PartialSums sums,
              const Tiling& tiling, int64_t first, int64_t last);

/// Sum over n elements of (x_hat - x)^2: what the initialisation of an activation's grid minimises.
double sum_squared_error(const float* x, int64_t n, const Grid<float>& grid);

}  // namespace qstep::methods::lsq_plus
