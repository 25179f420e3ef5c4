// CUDA kernels of lsq_plus and lsq_plus_backward. Values of scale and offset are not looked at: that would wait for
// the device.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <tuple>

#include "qstep/methods/arguments.h"
#include "qstep/methods/cuda_status.h"
#include "qstep/methods/lsq_plus/cuda.h"
#include "qstep/methods/lsq_plus/op.h"

namespace qstep::methods::lsq_plus {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using OptionalAxis = std::optional<int64_t>;

template <class T>
Operands<T> operands_of(const Memory& memory, int64_t quant_min, int64_t quant_max) {
  return {read<T>(memory.x), read<Compute<T>>(memory.scale), read<Compute<T>>(memory.offset),
          static_cast<int32_t>(quant_min), static_cast<int32_t>(quant_max)};
}

Tensor forward(const Tensor& x, const Tensor& scale, const OptionalTensor& offset, int64_t quant_min, int64_t quant_max,
               OptionalAxis axis, double /*grad_scale*/, std::string_view boundary) {
  check_arguments("lsq_plus", x, scale, offset, quant_min, quant_max, axis);
  boundary_from_name("lsq_plus", boundary);
  const c10::cuda::CUDAGuard guard(x.device());
  const Memory memory = memory_of(x, scale, offset, axis);
  Tensor output = output_like(memory.x);
  visit_dtype(x.scalar_type(), [&]<class T>(T) {
    check_accepted("lsq_plus", forward_cuda(operands_of<T>(memory, quant_min, quant_max), write<T>(output),
                                            memory.tiling, c10::cuda::getCurrentCUDAStream()));
  });
  return output;
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_output, const Tensor& x, const Tensor& scale,
                                            const OptionalTensor& offset, int64_t quant_min, int64_t quant_max,
                                            OptionalAxis axis, double grad_scale, std::string_view boundary_name) {
  check_arguments("lsq_plus_backward", x, scale, offset, quant_min, quant_max, axis);
  check_grad_output("lsq_plus_backward", grad_output, x);
  const Boundary boundary = boundary_from_name("lsq_plus_backward", boundary_name);
  const c10::cuda::CUDAGuard guard(x.device());
  const Memory memory = memory_of(x, scale, offset, axis);
  const Tensor upstream = dense_as(grad_output, memory.x);
  Tensor grad_x = output_like(memory.x);
  const int64_t channels = memory.tiling.layout().channels;
  const auto doubles = scale.options().dtype(at::kDouble);
  Tensor partial = at::empty({2, memory.tiling.partial_rows(), channels}, doubles);
  Tensor totals = at::empty({2, channels}, doubles);
  const auto sums_in = [](Tensor& tensor) {
    auto* const first = write<double>(tensor);
    return PartialSums{first, first + tensor.numel() / 2};
  };
  visit_dtype(x.scalar_type(), [&]<class T>(T) {
    check_accepted(
        "lsq_plus_backward",
        backward_cuda(operands_of<T>(memory, quant_min, quant_max), boundary, read<T>(upstream), write<T>(grad_x),
                      sums_in(partial), sums_in(totals), memory.tiling, c10::cuda::getCurrentCUDAStream()));
  });
  totals.mul_(grad_scale);
  const Tensor& offset_like = offset ? *offset : scale;
  return {grad_x, totals[0].to(scale.scalar_type()).view(scale.sizes()),
          totals[1].to(offset_like.scalar_type()).view(offset_like.sizes())};
}

}  // namespace
}  // namespace qstep::methods::lsq_plus

TORCH_LIBRARY_IMPL(qstep, CUDA, m) {
  m.impl("lsq_plus", qstep::methods::lsq_plus::forward);
  m.impl("lsq_plus_backward", qstep::methods::lsq_plus::backward);
}
