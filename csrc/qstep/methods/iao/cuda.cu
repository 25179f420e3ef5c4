#include "qstep/methods/cuda_loops.cuh"
#include "qstep/methods/iao/cuda.h"

namespace qstep::methods::iao {
namespace {

/// One range and its grid; a range is a channel of its own.
struct Range {
  const double* min;
  const double* max;
  double quant_min;
  double quant_max;
  bool symmetric;
  double* scale;
  int32_t* zero_point;

  QSTEP_HOST_DEVICE ScaleAndZeroPoint grid(int64_t i) const {
    return symmetric ? symmetric_params(min[i], max[i], quant_min, quant_max)
                     : affine_params(min[i], max[i], quant_min, quant_max);
  }
  QSTEP_HOST_DEVICE void apply(int64_t i, const ScaleAndZeroPoint& params) const {
    scale[i] = params.scale;
    zero_point[i] = static_cast<int32_t>(params.zero_point);
  }
};

}  // namespace

template <class T>
cudaError_t forward_cuda(const Operands<T>& operands, Rounding rounding, T* output, const Tiling& tiling,
                         cudaStream_t stream) {
  if (rounding == Rounding::half_even) {
    return for_each_element_cuda(Forward<T, Rounding::half_even>{operands, output}, tiling.layout(), stream);
  } else {
    return for_each_element_cuda(Forward<T, Rounding::half_up>{operands, output}, tiling.layout(), stream);
  }
}

template <class T>
cudaError_t backward_cuda(const Operands<T>& operands, const T* grad_output, T* grad_x, const Tiling& tiling,
                          cudaStream_t stream) {
  return for_each_element_cuda(Backward<T>{operands, grad_output, grad_x}, tiling.layout(), stream);
}

cudaError_t affine_params_cuda(const double* min, const double* max, int64_t n, int32_t quant_min, int32_t quant_max,
                               bool symmetric, double* scale, int32_t* zero_point, cudaStream_t stream) {
  const Range range{min,   max,       static_cast<double>(quant_min), static_cast<double>(quant_max), symmetric,
                    scale, zero_point};
  return for_each_element_cuda(range, {.outer = 1, .channels = n, .inner = 1}, stream);
}

#define QSTEP_INSTANTIATE(T)                                                                           \
  template cudaError_t forward_cuda<T>(const Operands<T>&, Rounding, T*, const Tiling&, cudaStream_t); \
  template cudaError_t backward_cuda<T>(const Operands<T>&, const T*, T*, const Tiling&, cudaStream_t);
QSTEP_INSTANTIATE(float)
QSTEP_INSTANTIATE(double)
QSTEP_INSTANTIATE(BFloat16)
QSTEP_INSTANTIATE(Float16)
#undef QSTEP_INSTANTIATE

}  // namespace qstep::methods::iao
