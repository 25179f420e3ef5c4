#pragma once
// QSTEP_HOST_DEVICE marks arithmetic that CPU and CUDA code share.
#if defined(__CUDACC__)
#define QSTEP_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define QSTEP_HOST_DEVICE inline __attribute__((always_inline))
#endif
