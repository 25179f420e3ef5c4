#pragma once
// AVX2 arithmetics of depthwise convolution (band_depthwise.h). Rows go in pairs, because the instructions add two
// products. Both give the int32 accumulator with no error at all.
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/conv2d/conv2d.h"
#include "qstep/kernels/depthwise/band_depthwise.h"

namespace qstep::kernels::avx2 {

/// vpmaddwd on int16: exact for every problem.
class DepthwiseMadd16 {
 public:
  using Code = int16_t;
  static constexpr int group_rows = 2;
  static constexpr std::array widths{32, 16};

  static bool supports(const Conv2dProblem&) { return true; }

  DepthwiseMadd16(const Conv2dProblem& problem, const BandGeometry& geometry,
                  const std::vector<int64_t>& first_channels);
  size_t bytes() const { return weights_.size() * sizeof(int16_t); }

  static void stage(const std::array<const uint8_t*, 2>& rows, const std::array<int64_t, 2>& strides, int64_t columns,
                    int width, int16_t* output, int64_t output_stride);
  void multiply(int64_t tile, const StagedBand<int16_t>& band, const int32_t* bias, int32_t* sums) const;
  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    epilogue.store_avx2(tile, output);
  }

 private:
  BandGeometry geometry_;
  AlignedVector<int16_t> weights_;  // as pack_band_weights
};

/// vpmaddubsw, all taps summed in int16: used where the weights prove that no channel's sum can leave it.
class DepthwiseMaddubs16 {
 public:
  using Code = uint8_t;
  static constexpr int group_rows = 2;
  static constexpr std::array widths{32, 16};

  static bool supports(const Conv2dProblem& problem);

  DepthwiseMaddubs16(const Conv2dProblem& problem, const BandGeometry& geometry,
                     const std::vector<int64_t>& first_channels);
  size_t bytes() const { return weights_.size(); }

  static void stage(const std::array<const uint8_t*, 2>& rows, const std::array<int64_t, 2>& strides, int64_t columns,
                    int width, uint8_t* output, int64_t output_stride);
  void multiply(int64_t tile, const StagedBand<uint8_t>& band, const int32_t* bias, int32_t* sums) const;
  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    epilogue.store_avx2(tile, output);
  }

 private:
  BandGeometry geometry_;
  AlignedVector<int8_t> weights_;  // as pack_band_weights
};

}  // namespace qstep::kernels::avx2
