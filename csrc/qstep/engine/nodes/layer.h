#pragma once
// What convolutions and linear layers share.
#include <algorithm>
#include <vector>

#include "qstep/engine/nodes/node_kernel.h"
#include "qstep/kernels/epilogue/epilogue.h"

namespace qstep::engine {

/// What multiplies in each sum of the layer (ir::sum_weights), with the taps outermost: [sums, out, kernel_h, kernel_w,
/// in / groups]; a matrix stays as it is.
std::vector<int16_t> kernel_weights(const ir::Weight& weight);

/// How the layer's sums become its output. Refers to the arguments.
kernels::Requantization requantization(const NodeContext& context, const ir::Weight& weight,
                                       const ir::Requantize& requantize);

/// The output pointer for codes or, without requantization, accumulators.
kernels::Output output_pointer(const Memory& memory, const View& output, bool is_raw);

/// About how many nanoseconds of one thread a layer takes that computes `outputs`, each a sum of `depth` products: 100
/// products, 20 bytes of weights or 8 outputs in one. Only what is far from worth sharing is told apart by it.
inline int64_t product_cost(int64_t outputs, int64_t depth, int64_t weight_bytes) {
  return std::max(outputs * depth / 100, weight_bytes / 20) + outputs / 8;
}

}  // namespace qstep::engine
