// CUDA kernels of pwlq_quantize and pwlq_estimate, on which the other piecewise ops stand. Values of parameters are not
// looked at: that would wait for the device.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "qstep/methods/arguments.h"
#include "qstep/methods/cuda_status.h"
#include "qstep/methods/pwlq/cuda.h"
#include "qstep/methods/pwlq/op.h"

namespace qstep::methods::pwlq {
namespace {

using at::Tensor;

Tensor quantize_on_device(const Tensor& w, const Tensor& start, const Tensor& step, int64_t bit_width,
                          std::optional<int64_t> axis) {
  check_pieces(w, start, step, bit_width, axis);
  const c10::cuda::CUDAGuard guard(w.device());
  const Memory memory = memory_of(w, start, step, axis);
  Tensor output = output_like(memory.w);
  visit_dtype(w.scalar_type(), [&]<class T>(T) {
    check_accepted("pwlq_quantize", quantize_cuda(operands_of<T>(memory, bit_width), write<T>(output), memory.tiling,
                                                  c10::cuda::getCurrentCUDAStream()));
  });
  return output;
}

Tensor estimate_on_device(const Tensor& max, const Tensor& sd, int64_t breakpoints, std::string_view name) {
  check_statistics(max, sd, breakpoints);
  const Estimate rule = estimate_from_name("pwlq_estimate", name);
  const c10::cuda::CUDAGuard guard(max.device());
  const Tensor largest = max.contiguous();
  const Tensor deviation = sd.contiguous();
  Tensor found = at::empty({max.size(0), breakpoints}, max.options());
  const FromStatistics element{read<double>(largest), read<double>(deviation), rule, static_cast<int32_t>(breakpoints),
                               write<double>(found)};
  check_accepted("pwlq_estimate", estimate_cuda(element, max.size(0), c10::cuda::getCurrentCUDAStream()));
  return found;
}

}  // namespace
}  // namespace qstep::methods::pwlq

TORCH_LIBRARY_IMPL(qstep, CUDA, m) {
  m.impl("pwlq_quantize", qstep::methods::pwlq::quantize_on_device);
  m.impl("pwlq_estimate", qstep::methods::pwlq::estimate_on_device);
}
