#pragma once
// From int32 accumulators to the codes of the next grid:
//
//   code = clamp(requantize(acc, multiplier[c], policy) + zero_point, clamp_min, clamp_max)
//
// with requantize as core/requantize.h defines it.
#include <cstdint>
#include <span>
#include <string_view>

#include "qstep/core/requantize.h"
#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/epilogue/combination.h"
#include "qstep/kernels/layout.h"

namespace qstep::kernels {

struct Requantization {
  core::RequantPolicy policy = core::RequantPolicy::exact;
  std::span<const core::Multiplier> multipliers;  ///< one, or one per channel; empty: the output is the accumulators
  int32_t zero_point = 0;                         ///< 0..255
  int32_t clamp_min = 0;                          ///< 0 <= clamp_min <= clamp_max <= 255
  int32_t clamp_max = 255;
  /// Where a layer has several accumulators per output, instead of multipliers. The output is codes where Output has a
  /// pointer for them, else accumulators.
  Combination combination;
};

/// Throws Error where a parameter is out of range. `operation` begins the message.
void validate(const Requantization& requantization, int64_t channels, std::string_view operation);

/// Columns of the accumulator tiles that matrix kernels hand to the epilogue.
inline constexpr int tile_columns = 16;

/// Accumulators of up to tile_columns neighbouring channels of a few pixels, in cache.
struct AccumulatorTile {
  const int32_t* accumulators = nullptr;  ///< [sums][rows][tile_columns]
  int64_t sum_stride = 0;                 ///< elements from one sum to the next, where there are several
  int rows = 0;
  int64_t first_channel = 0;
  int channels = 0;                      ///< 1..tile_columns
  const int64_t* row_offsets = nullptr;  ///< where each row's channel 0 lies in the output, in elements
};

/// A Requantization made ready for one layer.
class Epilogue {
 public:
  /// accumulator_bound: no |acc| of this layer (with a combination, no |t|) is larger, proved from its weights.
  Epilogue(const Requantization& requantization, int64_t channels, int64_t accumulator_bound);

  /// True where the output is the accumulators themselves.
  bool is_raw() const { return multipliers_.empty(); }

  // What turns accumulators into codes in a kernel's registers: fma(acc, factor, 1.5 * 2^23) in floats or 1.5 * 2^52 in
  // doubles, whichever is not null (docs/numerics.md). Whole tiles of factors.
  const float* float_factors() const { return float_factors_.empty() ? nullptr : float_factors_.data(); }
  const double* factors() const { return factors_.empty() ? nullptr : factors_.data(); }
  int32_t zero_point() const { return zero_point_; }
  int32_t clamp_min() const { return clamp_min_; }
  int32_t clamp_max() const { return clamp_max_; }

  /// The definition for one output: stores what its accumulators, one or combiner().sums(), become.
  void store(const int32_t* accumulators, int64_t stride, int64_t channel, const Output& output, int64_t offset) const;

  /// Store one tile: requantized codes, or the accumulators where is_raw().
  void store_reference(const AccumulatorTile& tile, const Output& output) const;
  void store_avx2(const AccumulatorTile& tile, const Output& output) const;
  void store_avx512(const AccumulatorTile& tile, const Output& output) const;

 private:
  uint8_t code(int32_t accumulator, int64_t channel) const;
  uint8_t clamped(int64_t steps) const;
  void store_combined(const AccumulatorTile& tile, const Output& output) const;
  void store_accumulators(const AccumulatorTile& tile, int32_t* output) const;

  core::RequantPolicy policy_;
  int32_t zero_point_;
  int32_t clamp_min_;
  int32_t clamp_max_;
  Combiner combiner_;
  AlignedVector<core::Multiplier> multipliers_;  // one per channel
  // multiplier / 2^shift, policy exact only, padded to whole tiles: as floats where one fused multiplication and
  // addition rounds as defined (docs/numerics.md), else as doubles where one does, else neither.
  AlignedVector<float> float_factors_;
  AlignedVector<double> factors_;
  AlignedVector<int32_t> shifts_;  // policy shift only; padded to whole tiles
};

}  // namespace qstep::kernels
