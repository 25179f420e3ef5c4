// CUDA kernel of inq_quantize. The value of n1 is not looked at: that would wait for the device.
#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "qstep/methods/arguments.h"
#include "qstep/methods/cuda_status.h"
#include "qstep/methods/inq/cuda.h"
#include "qstep/methods/inq/op.h"

namespace qstep::methods::inq {
namespace {

at::Tensor quantize_cuda(const at::Tensor& w, const at::Tensor& n1, int64_t bit_width) {
  check_quantize(w, n1, bit_width);
  const c10::cuda::CUDAGuard guard(w.device());
  const Memory memory = memory_of(w, n1);
  at::Tensor output = output_like(memory.w);
  visit_dtype(w.scalar_type(), [&]<class T>(T) {
    const Forward<T> element{read<T>(memory.w), read<int32_t>(memory.n1), static_cast<int32_t>(bit_width),
                             write<T>(output)};
    check_accepted("inq_quantize", forward_cuda(element, memory.tiling, c10::cuda::getCurrentCUDAStream()));
  });
  return output;
}

}  // namespace
}  // namespace qstep::methods::inq

TORCH_LIBRARY_IMPL(qstep, CUDA, m) { m.impl("inq_quantize", qstep::methods::inq::quantize_cuda); }
