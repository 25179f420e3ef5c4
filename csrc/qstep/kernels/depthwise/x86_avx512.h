#pragma once
// AVX-512 VNNI arithmetic of depthwise convolution (band_depthwise.h): four rows to an instruction.
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/conv2d/conv2d.h"
#include "qstep/kernels/depthwise/band_depthwise.h"

namespace qstep::kernels::avx512vnni {

/// vpdpbusd: exact for every problem whose weights fit int8.
class DepthwiseDot8 {
 public:
  using Code = uint8_t;
  static constexpr int group_rows = 4;
  static constexpr std::array widths{64, 32};

  static bool supports(const Conv2dProblem& problem);

  DepthwiseDot8(const Conv2dProblem& problem, const BandGeometry& geometry, const std::vector<int64_t>& first_channels);
  size_t bytes() const { return weights_.size(); }

  static void stage(const std::array<const uint8_t*, 4>& rows, const std::array<int64_t, 4>& strides, int64_t columns,
                    int width, uint8_t* output, int64_t output_stride);
  void multiply(int64_t tile, const StagedBand<uint8_t>& band, const int32_t* bias, int32_t* sums) const;
  static bool makes_codes(const Epilogue& epilogue) { return epilogue.float_factors() != nullptr; }
  void multiply_to_codes(int64_t tile, const StagedBand<uint8_t>& band, const int32_t* bias, const Epilogue& epilogue,
                         const AccumulatorTile& where, uint8_t* output) const;
  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    epilogue.store_avx512(tile, output);
  }

 private:
  template <class Store>
  void multiply(int64_t tile, const StagedBand<uint8_t>& band, const int32_t* bias, const Store& store) const;

  BandGeometry geometry_;
  AlignedVector<int8_t> weights_;  // as pack_band_weights
};

}  // namespace qstep::kernels::avx512vnni
