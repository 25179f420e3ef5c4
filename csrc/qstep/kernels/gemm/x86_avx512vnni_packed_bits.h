#pragma once
// AVX-512 VNNI arithmetic of the blocked matrix product (panel_gemm.h) for few rows of input and weights of 2 or 4 bits,
// which take the time of reading the weights.
#include <cstddef>
#include <cstdint>

#include "qstep/kernels/gemm/packed_bits.h"
#include "qstep/kernels/gemm/panel_gemm.h"

namespace qstep::kernels::avx512vnni {

/// Dpbusd with several steps' weights in each byte.
template <int bits>
class PackedBitsDpbusd {
 public:
  using Code = uint8_t;
  static constexpr int tile_rows = 4;
  static constexpr int tile_panels(int rows) { return rows == 1 ? 8 : 4; }
  static constexpr int depth_step = PackedBits<bits>::group_depth;
  static constexpr int depth_run = depth_step;

  static bool supports(const GemmProblem& problem) { return PackedBits<bits>::supports(problem); }

  PackedBitsDpbusd(const GemmProblem& problem, int64_t groups) : packed_(problem, groups) {}
  size_t bytes() const { return packed_.weights.size(); }

  void multiply(int64_t panel, int panels, const TileInput<uint8_t>& input, const int32_t* bias, int32_t* tile) const;
  static void stage(const uint8_t* input, int64_t count, uint8_t* output);
  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    epilogue.store_avx512(tile, output);
  }

 private:
  PackedBits<bits> packed_;
};

}  // namespace qstep::kernels::avx512vnni
