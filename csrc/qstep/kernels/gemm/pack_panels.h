#pragma once
#include <cstdint>

#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/epilogue/epilogue.h"
#include "qstep/kernels/gemm/gemm.h"
#include "qstep/kernels/gemm/panel_gemm.h"

namespace qstep::kernels {

/// Copies the weights of all groups into panels [groups * panels][steps][tile_columns][depth_step], zero where there
/// are none.
template <int depth_step, class T>
void pack_panels(const GemmProblem& problem, int64_t groups, int64_t steps, AlignedVector<T>& packed) {
  const int64_t group_columns = problem.columns / groups;
  const int64_t panels = ceil_divide(group_columns, tile_columns);
  const int64_t panel_size = steps * tile_columns * depth_step;
  packed.assign(static_cast<size_t>(groups * panels * panel_size), T{0});
  for (int64_t n = 0; n < problem.columns; ++n) {
    const int64_t column = n % group_columns;
    T* panel = packed.data() + (n / group_columns * panels + column / tile_columns) * panel_size;
    for (int64_t k = 0; k < problem.depth; ++k) {
      const int64_t at = (k / depth_step * tile_columns + column % tile_columns) * depth_step + k % depth_step;
      panel[at] = static_cast<T>(problem.weights[static_cast<size_t>(n * problem.depth + k)]);
    }
  }
}

}  // namespace qstep::kernels
