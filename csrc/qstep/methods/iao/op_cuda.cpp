// CUDA kernels of fake_quantize_affine, its backward, and affine_params. Values of parameters are not looked at: that
// would wait for the device.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <tuple>

#include "qstep/methods/arguments.h"
#include "qstep/methods/cuda_status.h"
#include "qstep/methods/iao/cuda.h"
#include "qstep/methods/iao/op.h"

namespace qstep::methods::iao {
namespace {

using at::Tensor;
using OptionalAxis = std::optional<int64_t>;

template <class T>
Operands<T> operands_of(const Memory& memory, int64_t quant_min, int64_t quant_max) {
  return {read<T>(memory.x), read<Compute<T>>(memory.scale), read<Compute<T>>(memory.zero_point),
          static_cast<int32_t>(quant_min), static_cast<int32_t>(quant_max)};
}

Tensor forward(const Tensor& x, const Tensor& scale, const Tensor& zero_point, int64_t quant_min, int64_t quant_max,
               OptionalAxis axis, std::string_view rounding_name) {
  check_arguments("fake_quantize_affine", x, scale, zero_point, quant_min, quant_max, axis);
  const Rounding rounding = rounding_from_name("fake_quantize_affine", rounding_name);
  const c10::cuda::CUDAGuard guard(x.device());
  const Memory memory = memory_of(x, scale, zero_point, axis);
  Tensor output = output_like(memory.x);
  visit_dtype(x.scalar_type(), [&]<class T>(T) {
    check_accepted("fake_quantize_affine",
                   forward_cuda(operands_of<T>(memory, quant_min, quant_max), rounding, write<T>(output), memory.tiling,
                                c10::cuda::getCurrentCUDAStream()));
  });
  return output;
}

Tensor backward(const Tensor& grad_output, const Tensor& x, const Tensor& scale, const Tensor& zero_point,
                int64_t quant_min, int64_t quant_max, OptionalAxis axis) {
  check_arguments("fake_quantize_affine_backward", x, scale, zero_point, quant_min, quant_max, axis);
  check_grad_output("fake_quantize_affine_backward", grad_output, x);
  const c10::cuda::CUDAGuard guard(x.device());
  const Memory memory = memory_of(x, scale, zero_point, axis);
  const Tensor upstream = dense_as(grad_output, memory.x);
  Tensor grad_x = output_like(memory.x);
  visit_dtype(x.scalar_type(), [&]<class T>(T) {
    check_accepted("fake_quantize_affine_backward",
                   backward_cuda(operands_of<T>(memory, quant_min, quant_max), read<T>(upstream), write<T>(grad_x),
                                 memory.tiling, c10::cuda::getCurrentCUDAStream()));
  });
  return grad_x;
}

std::tuple<Tensor, Tensor> params(const Tensor& min, const Tensor& max, int64_t quant_min, int64_t quant_max,
                                  bool symmetric) {
  check_ranges(min, max, quant_min, quant_max);
  const c10::cuda::CUDAGuard guard(min.device());
  const Tensor lows = values_of(min, at::kDouble);
  const Tensor highs = values_of(max, at::kDouble);
  Tensor scale = at::empty_like(lows);
  Tensor zero_point = at::empty_like(lows, lows.options().dtype(at::kInt));
  check_accepted("affine_params", affine_params_cuda(read<double>(lows), read<double>(highs), lows.numel(),
                                                     static_cast<int32_t>(quant_min), static_cast<int32_t>(quant_max),
                                                     symmetric, write<double>(scale), write<int32_t>(zero_point),
                                                     c10::cuda::getCurrentCUDAStream()));
  return {scale.to(compute_dtype(min.scalar_type())), zero_point};
}

}  // namespace
}  // namespace qstep::methods::iao

TORCH_LIBRARY_IMPL(qstep, CUDA, m) {
  m.impl("fake_quantize_affine", qstep::methods::iao::forward);
  m.impl("fake_quantize_affine_backward", qstep::methods::iao::backward);
  m.impl("affine_params", qstep::methods::iao::params);
}
