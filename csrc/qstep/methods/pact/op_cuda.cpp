// CUDA kernels of pact and pact_backward. The value of alpha is not looked at: that would wait for the device.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <tuple>

#include "qstep/methods/arguments.h"
#include "qstep/methods/cuda_status.h"
#include "qstep/methods/pact/cuda.h"
#include "qstep/methods/pact/op.h"

namespace qstep::methods::pact {
namespace {

using at::Tensor;

template <class T>
Operands<T> operands_of(const Memory& memory, int64_t bit_width, bool is_signed) {
  return {read<T>(memory.x), read<Compute<T>>(memory.alpha), levels(bit_width, is_signed), is_signed};
}

Tensor forward(const Tensor& x, const Tensor& alpha, int64_t bit_width, bool is_signed, std::string_view gradient) {
  check_arguments("pact", x, alpha, bit_width);
  gradient_from_name("pact", gradient);
  const c10::cuda::CUDAGuard guard(x.device());
  const Memory memory = memory_of(x, alpha);
  Tensor output = output_like(memory.x);
  visit_dtype(x.scalar_type(), [&]<class T>(T) {
    check_accepted("pact", forward_cuda(operands_of<T>(memory, bit_width, is_signed), write<T>(output), memory.tiling,
                                        c10::cuda::getCurrentCUDAStream()));
  });
  return output;
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad_output, const Tensor& x, const Tensor& alpha, int64_t bit_width,
                                    bool is_signed, std::string_view gradient) {
  check_arguments("pact_backward", x, alpha, bit_width);
  check_grad_output("pact_backward", grad_output, x);
  const AlphaGradient kind = gradient_from_name("pact_backward", gradient);
  const c10::cuda::CUDAGuard guard(x.device());
  const Memory memory = memory_of(x, alpha);
  const Tensor upstream = dense_as(grad_output, memory.x);
  Tensor grad_x = output_like(memory.x);
  const auto doubles = alpha.options().dtype(at::kDouble);
  Tensor partial = at::empty({2, memory.tiling.partial_rows()}, doubles);
  Tensor totals = at::empty({2, 1}, doubles);
  const auto sums_in = [](Tensor& tensor) {
    auto* const first = write<double>(tensor);
    return PartialSums{first, first + tensor.size(1)};
  };
  visit_dtype(x.scalar_type(), [&]<class T>(T) {
    check_accepted("pact_backward", backward_cuda(operands_of<T>(memory, bit_width, is_signed), kind, read<T>(upstream),
                                                  write<T>(grad_x), sums_in(partial), sums_in(totals), memory.tiling,
                                                  c10::cuda::getCurrentCUDAStream()));
  });
  return {grad_x, totals[0].to(alpha.scalar_type()).view(alpha.sizes())};
}

}  // namespace
}  // namespace qstep::methods::pact

TORCH_LIBRARY_IMPL(qstep, CUDA, m) {
  m.impl("pact", qstep::methods::pact::forward);
  m.impl("pact_backward", qstep::methods::pact::backward);
}
