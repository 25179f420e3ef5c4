#include "qstep/methods/grid_ops.h"

#include <ATen/ATen.h>
#include <torch/library.h>

namespace qstep::methods {

Tensor grid_residual(const Tensor& scale, const Tensor& zero_point, const Tensor& offset, int64_t quant_min, int64_t quant_max) {
  const Tensor s = scale.to(at::kDouble);
  const Tensor z = zero_point.to(at::kDouble);
  const Tensor b = offset.to(at::kDouble);
  const Tensor zero_code = ((-b / s).round() + z).clamp(static_cast<double>(quant_min), static_cast<double>(quant_max));
  return (s * (zero_code - z) + b).to(scale.dtype());
}

Tensor encode(const Tensor& x, const Tensor& scale, const Tensor& zero_point, const Tensor& offset, int64_t quant_min, int64_t quant_max) {
  const Tensor z = zero_point.to(x.dtype()) - static_cast<double>(quant_min);
  return ((x - offset) / scale).round_().add_(z).clamp_(0, quant_max - quant_min).to(at::kByte);
}

Tensor decode(const Tensor& codes, const Tensor& scale, const Tensor& zero_point, const Tensor& offset, int64_t quant_min) {
  const Tensor z = zero_point.to(scale.dtype()) - static_cast<double>(quant_min);
  return (codes.to(scale.dtype()) - z) * scale + offset;
}

// Built of ATen operations: one definition serves CPU, CUDA and Meta.
TORCH_LIBRARY_FRAGMENT(qstep, m) {
  m.def("grid_residual(Tensor scale, Tensor zero_point, Tensor offset, int quant_min, int quant_max) -> Tensor", TORCH_FN(grid_residual));
  m.def("encode(Tensor x, Tensor scale, Tensor zero_point, Tensor offset, int quant_min, int quant_max) -> Tensor", TORCH_FN(encode));
  m.def("decode(Tensor codes, Tensor scale, Tensor zero_point, Tensor offset, int quant_min) -> Tensor", TORCH_FN(decode));
}

}  // namespace qstep::methods
