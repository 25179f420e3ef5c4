#include "qstep/methods/grid_ops.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "qstep/core/grid.h"
#include "qstep/kernels/elementwise/quantize.h"
#include "qstep/methods/arguments.h"

namespace qstep::methods {

Tensor grid_residual(const Tensor& scale, const Tensor& zero_point, const Tensor& offset, int64_t quant_min,
                     int64_t quant_max) {
  const Tensor s = scale.to(at::kDouble);
  const Tensor z = zero_point.to(at::kDouble);
  const Tensor b = offset.to(at::kDouble);
  const Tensor zero_code = ((-b / s).round() + z).clamp(static_cast<double>(quant_min), static_cast<double>(quant_max));
  return (s * (zero_code - z) + b).to(scale.dtype());
}

namespace {

Tensor encode_in_passes(const Tensor& x, const Tensor& scale, const Tensor& zero_point, const Tensor& offset,
                        int64_t quant_min, int64_t quant_max) {
  const Tensor z = zero_point.to(x.dtype()) - static_cast<double>(quant_min);
  return ((x - offset) / scale).round_().add_(z).clamp_(0, quant_max - quant_min).to(at::kByte);
}

Tensor decode_in_passes(const Tensor& codes, const Tensor& scale, const Tensor& zero_point, const Tensor& offset,
                        int64_t quant_min) {
  const Tensor z = zero_point.to(scale.dtype()) - static_cast<double>(quant_min);
  return (codes.to(scale.dtype()) - z) * scale + offset;
}

/// The grid of codes from 0 to `largest`.
core::Grid grid_of(const Tensor& scale, const Tensor& zero_point, const Tensor& offset, int64_t quant_min,
                   int64_t largest) {
  return {scale.item<float>(), static_cast<int32_t>(zero_point.item<int64_t>() - quant_min), offset.item<float>(), 0,
          static_cast<int32_t>(largest)};
}

// One pass over memory, by the kernels at the borders of the integer network.
Tensor encode_in_one_pass(const Tensor& x, const Tensor& scale, const Tensor& zero_point, const Tensor& offset,
                          int64_t quant_min, int64_t quant_max) {
  if (x.scalar_type() != at::kFloat) return encode_in_passes(x, scale, zero_point, offset, quant_min, quant_max);
  const Tensor input = dense(x);
  const Tensor codes = at::empty_like(input, at::kByte);
  const core::Grid grid = grid_of(scale, zero_point, offset, quant_min, quant_max - quant_min);
  const auto run = kernels::choose_quantize(grid).run;
  at::parallel_for(0, input.numel(), at::internal::GRAIN_SIZE, [&](int64_t first, int64_t last) {
    run(input.const_data_ptr<float>() + first, last - first, grid, codes.mutable_data_ptr<uint8_t>() + first, 1);
  });
  return codes;
}

Tensor decode_in_one_pass(const Tensor& codes, const Tensor& scale, const Tensor& zero_point, const Tensor& offset,
                          int64_t quant_min) {
  if (codes.scalar_type() != at::kByte || scale.scalar_type() != at::kFloat) {
    return decode_in_passes(codes, scale, zero_point, offset, quant_min);
  }
  const Tensor input = dense(codes);
  const Tensor values = output_like(input, at::kFloat);
  const core::Grid grid = grid_of(scale, zero_point, offset, quant_min, UINT8_MAX);
  const auto run = kernels::choose_dequantize(grid).run;
  at::parallel_for(0, input.numel(), at::internal::GRAIN_SIZE, [&](int64_t first, int64_t last) {
    run(input.const_data_ptr<uint8_t>() + first, 1, last - first, grid, values.mutable_data_ptr<float>() + first);
  });
  return values;
}

}  // namespace

Tensor encode(const Tensor& x, const Tensor& scale, const Tensor& zero_point, const Tensor& offset, int64_t quant_min,
              int64_t quant_max) {
  const auto encode = x.is_cpu() ? encode_in_one_pass : encode_in_passes;
  return encode(x, scale, zero_point, offset, quant_min, quant_max);
}

Tensor decode(const Tensor& codes, const Tensor& scale, const Tensor& zero_point, const Tensor& offset,
              int64_t quant_min) {
  const auto decode = codes.is_cpu() ? decode_in_one_pass : decode_in_passes;
  return decode(codes, scale, zero_point, offset, quant_min);
}

TORCH_LIBRARY_FRAGMENT(qstep, m) {
  // Built of ATen operations: one definition serves CPU, CUDA and Meta.
  m.def("grid_residual(Tensor scale, Tensor zero_point, Tensor offset, int quant_min, int quant_max) -> Tensor",
        TORCH_FN(grid_residual));
  m.def("encode(Tensor x, Tensor scale, Tensor zero_point, Tensor offset, int quant_min, int quant_max) -> Tensor");
  m.def("decode(Tensor codes, Tensor scale, Tensor zero_point, Tensor offset, int quant_min) -> Tensor");
}

TORCH_LIBRARY_IMPL(qstep, CompositeExplicitAutograd, m) {
  m.impl("encode", encode_in_passes);
  m.impl("decode", decode_in_passes);
}

TORCH_LIBRARY_IMPL(qstep, CPU, m) {
  m.impl("encode", encode_in_one_pass);
  m.impl("decode", decode_in_one_pass);
}

}  // namespace qstep::methods
