#pragma once
// AVX2 arithmetics of the Winograd kernels (winograd_conv2d.h), and AVX-VNNI's, which only multiplies otherwise. All give
// the int32 accumulator with no error at all.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "qstep/kernels/epilogue/epilogue.h"
#include "qstep/kernels/winograd/transform.h"

namespace qstep::kernels::winograd::avx2 {

/// What all of them share.
template <class SchemeOf>
struct Arithmetic {
  using Scheme = SchemeOf;
  static constexpr int columns = tile_columns;
  static constexpr int tile_rows = 6;

  static int transform_output(const PatchSums& patches, int32_t* accumulators);
  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    epilogue.store_avx2(tile, output);
  }
};

/// vpmaddwd on data and weights in int16, for codes of any width: 2 * 1020 * 1152 is far below 2^31.
template <class Scheme>
class Madd16 : public Arithmetic<Scheme> {
 public:
  using Data = int16_t;
  using Weight = int16_t;
  static constexpr int depth_step = 2;
  static constexpr int lanes = 16;

  static int32_t data_offset(int32_t) { return 0; }
  static bool supports(const Conv2dProblem& problem);
  static bool suits(const Conv2dProblem& problem);

  explicit Madd16(const Conv2dProblem&) {}
  size_t bytes() const { return 0; }

  static void transform_kernels(const int8_t* kernels, int64_t size, int16_t* weights, int64_t plane_stride);
  static void transform_input(const PatchRow& row, int64_t channels, int32_t data_offset, int16_t* data,
                              int64_t patch_stride, int64_t plane_stride);
  void multiply(int64_t matrix, const Product<int16_t, int16_t>& product) const;
};

struct ByteArithmetic : Arithmetic<Stride1>, InBytes {
  static constexpr int lanes = 32;

  static bool supports(const Conv2dProblem& problem);

  static void transform_kernels(const int8_t* kernels, int64_t size, int8_t* weights, int64_t plane_stride);
  static void transform_input(const PatchRow& row, int64_t channels, int32_t data_offset, uint8_t* data,
                              int64_t patch_stride, int64_t plane_stride);
};

/// vpmaddubsw sums in int16 over windows of steps, proved as those of the direct kernel (docs/numerics.md), from the
/// transformed weights.
class Maddubs16 : public ByteArithmetic {
 public:
  static bool supports(const Conv2dProblem& problem);
  static bool suits(const Conv2dProblem& problem);

  explicit Maddubs16(const Conv2dProblem& problem);
  size_t bytes() const { return windows_.size() * sizeof(int32_t) + first_window_.size() * sizeof(size_t); }

  void multiply(int64_t matrix, const Product<uint8_t, int8_t>& product) const;

 private:
  std::vector<int32_t> windows_;      // lengths in steps, matrix after matrix
  std::vector<size_t> first_window_;  // [panels * positions + 1], into windows_
};

}  // namespace qstep::kernels::winograd::avx2

namespace qstep::kernels::winograd::avxvnni {

/// vpdpbusd adds to int32 without saturation.
class Dpbusd : public avx2::ByteArithmetic {
 public:
  explicit Dpbusd(const Conv2dProblem&) {}
  size_t bytes() const { return 0; }

  void multiply(int64_t matrix, const Product<uint8_t, int8_t>& product) const;
};

}  // namespace qstep::kernels::winograd::avxvnni
