#pragma once
// AVX2 transforms of the Winograd kernels (winograd_conv2d.h). Both give the int32 accumulator with no error at all.
#include <cstdint>

#include "qstep/kernels/gemm/x86_avx2.h"
#include "qstep/kernels/winograd/transform.h"

namespace qstep::kernels::winograd::avx2 {

/// Accumulators from the sums of up to a group of patches, and the number of outputs kept.
int transform_output(const int32_t* sums, int64_t position_stride, const PatchExtent* extents, int count,
                     const int32_t* bias, int32_t* accumulators);

/// Data in int16: codes of any width, weights that int16 holds once transformed.
struct Words {
  using Gemm = kernels::avx2::Madd16;
  static constexpr int64_t min_in_channels = 16;

  static int32_t data_offset(int32_t) { return 0; }
  static int32_t data_max(int32_t) { return 0; }
  static void transform_input(const PatchRow& row, int64_t channels, int32_t data_offset, int16_t* data,
                              int64_t patch_stride, int64_t position_stride);
  static constexpr auto transform_output = avx2::transform_output;
};

/// Data in unsigned bytes: codes of up to 6 bits, weights that int8 holds once transformed.
struct Bytes {
  using Gemm = kernels::avx2::Maddubs16;
  static constexpr int64_t min_in_channels = 32;

  static int32_t data_offset(int32_t quant_max) { return 2 * quant_max; }
  static int32_t data_max(int32_t quant_max) { return 4 * quant_max; }
  static void transform_input(const PatchRow& row, int64_t channels, int32_t data_offset, uint8_t* data,
                              int64_t patch_stride, int64_t position_stride);
  static constexpr auto transform_output = avx2::transform_output;
};

}  // namespace qstep::kernels::winograd::avx2
