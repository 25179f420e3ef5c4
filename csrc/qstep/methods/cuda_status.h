#pragma once
// The one check of what a CUDA call returns.
#include <cuda_runtime_api.h>

#include <string_view>

#include "qstep/core/error.h"

namespace qstep::methods {

/// Throws where `op` could not start its kernel.
inline void check_accepted(std::string_view op, cudaError_t status) {
  require(status == cudaSuccess, "{}: the CUDA kernel did not start: {}", op, cudaGetErrorString(status));
}

}  // namespace qstep::methods
