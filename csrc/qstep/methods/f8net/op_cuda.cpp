// CUDA kernels of fixed_point and its backward. Values of the fraction length are not looked at: that would wait for the
// device.
#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "qstep/methods/arguments.h"
#include "qstep/methods/cuda_status.h"
#include "qstep/methods/f8net/cuda.h"
#include "qstep/methods/f8net/op.h"

namespace qstep::methods::f8net {
namespace {

using at::Tensor;

Tensor forward(const Tensor& x, const Tensor& fraction_length, int64_t word_length, bool is_signed,
               std::string_view mask_name) {
  check_arguments("fixed_point", x, fraction_length, word_length);
  mask_from_name("fixed_point", mask_name);
  const c10::cuda::CUDAGuard guard(x.device());
  const Memory memory = memory_of(x, fraction_length);
  Tensor output = output_like(memory.x);
  visit_dtype(x.scalar_type(), [&]<class T>(T) {
    check_accepted("fixed_point", forward_cuda(operands_of<T>(memory, word_length, is_signed), write<T>(output),
                                               memory.tiling, c10::cuda::getCurrentCUDAStream()));
  });
  return output;
}

Tensor backward(const Tensor& grad_output, const Tensor& x, const Tensor& fraction_length, int64_t word_length,
                bool is_signed, std::string_view mask_name) {
  check_arguments("fixed_point_backward", x, fraction_length, word_length);
  check_grad_output("fixed_point_backward", grad_output, x);
  const Mask mask = mask_from_name("fixed_point_backward", mask_name);
  const c10::cuda::CUDAGuard guard(x.device());
  const Memory memory = memory_of(x, fraction_length);
  const Tensor upstream = dense_as(grad_output, memory.x);
  Tensor grad_x = output_like(memory.x);
  visit_dtype(x.scalar_type(), [&]<class T>(T) {
    check_accepted("fixed_point_backward",
                   backward_cuda(operands_of<T>(memory, word_length, is_signed), mask, read<T>(upstream),
                                 write<T>(grad_x), memory.tiling, c10::cuda::getCurrentCUDAStream()));
  });
  return grad_x;
}

}  // namespace
}  // namespace qstep::methods::f8net

TORCH_LIBRARY_IMPL(qstep, CUDA, m) {
  m.impl("fixed_point", qstep::methods::f8net::forward);
  m.impl("fixed_point_backward", qstep::methods::f8net::backward);
}
