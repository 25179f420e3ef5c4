#pragma once
// AVX-512 VNNI arithmetic of the Winograd kernels (winograd_conv2d.h).
#include <cstddef>
#include <cstdint>

#include "qstep/kernels/epilogue/epilogue.h"
#include "qstep/kernels/winograd/transform.h"

namespace qstep::kernels::winograd::avx512vnni {

/// vpdpbusd.
class Dpbusd : public InBytes {
 public:
  using Scheme = Stride1;
  static constexpr int columns = 2 * tile_columns;
  static constexpr int lanes = 64;
  static constexpr int tile_rows = 12;

  static bool supports(const Conv2dProblem& problem);

  explicit Dpbusd(const Conv2dProblem&) {}
  size_t bytes() const { return 0; }

  static void transform_kernels(const int8_t* kernels, int64_t size, int8_t* weights, int64_t plane_stride);
  static void transform_input(const PatchRow& row, int64_t channels, int32_t data_offset, uint8_t* data,
                              int64_t patch_stride, int64_t plane_stride);
  void multiply(int64_t matrix, const Product<uint8_t, int8_t>& product) const;
  static int transform_output(const PatchSums& patches, int32_t* accumulators);
  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    epilogue.store_avx512(tile, output);
  }

  static bool makes_codes(const Epilogue& epilogue) { return epilogue.float_factors() != nullptr; }
  static void transform_to_codes(const PatchSums& patches, const Epilogue& epilogue, const AccumulatorTile& where,
                                 uint8_t* codes);
};

}  // namespace qstep::kernels::winograd::avx512vnni
