#pragma once
// Per-tensor activation grids on tensors: codes, values and the residual of a real offset (docs/numerics.md). Quantizers of every method,
// and as torch.ops.qstep.* those of Python, compute them here.
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace qstep::methods {

using at::Tensor;

/// What the code nearest to real zero stands for (docs/numerics.md, "real offsets and padding"), as core::residual, in the dtype of scale.
Tensor grid_residual(const Tensor& scale, const Tensor& zero_point, const Tensor& offset, int64_t quant_min,
                     int64_t quant_max);

/// uint8 codes, counted from quant_min, of x on a per-tensor grid: core::quantize on tensors. Not differentiable, nor is decode.
Tensor encode(const Tensor& x, const Tensor& scale, const Tensor& zero_point, const Tensor& offset, int64_t quant_min,
              int64_t quant_max);

/// Real values of such codes: core::dequantize on tensors, in the dtype of scale.
Tensor decode(const Tensor& codes, const Tensor& scale, const Tensor& zero_point, const Tensor& offset,
              int64_t quant_min);

}  // namespace qstep::methods
