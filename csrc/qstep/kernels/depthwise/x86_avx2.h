#pragma once
// AVX2 arithmetics of depthwise convolution (blocked_depthwise.h). Taps go in pairs, because the instructions add two
// products. Both give the int32 accumulator with no error at all.
#include <cstddef>
#include <cstdint>

#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/conv2d/conv2d.h"

namespace qstep::kernels::avx2 {

/// vpmaddwd on int16: exact for every problem.
class DepthwiseMadd16 {
 public:
  static constexpr int block_channels = 16;

  static bool supports(const Conv2dProblem&) { return true; }

  explicit DepthwiseMadd16(const Conv2dProblem& problem);
  size_t bytes() const { return weights_.size() * sizeof(int16_t); }
  int64_t taps() const { return 2 * pairs_; }

  void accumulate(int64_t block, const uint8_t* const* taps, int64_t first_channel, const int32_t* bias, int32_t* sums,
                  int64_t stride) const;
  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    epilogue.store_avx2(tile, output);
  }

 private:
  int64_t pairs_;
  AlignedVector<int16_t> weights_;  // [blocks][pairs][block_channels in the order of unpack][2]
};

/// vpmaddubsw, all taps summed in int16: used where the weights prove that no channel's sum can leave it.
class DepthwiseMaddubs16 {
 public:
  static constexpr int block_channels = 32;

  static bool supports(const Conv2dProblem& problem);

  explicit DepthwiseMaddubs16(const Conv2dProblem& problem);
  size_t bytes() const { return weights_.size(); }
  int64_t taps() const { return 2 * pairs_; }

  void accumulate(int64_t block, const uint8_t* const* taps, int64_t first_channel, const int32_t* bias, int32_t* sums,
                  int64_t stride) const;
  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    epilogue.store_avx2(tile, output);
  }

 private:
  int64_t pairs_;
  AlignedVector<int8_t> weights_;  // [blocks][pairs][block_channels in the order of unpack][2]
};

}  // namespace qstep::kernels::avx2
