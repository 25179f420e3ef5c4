#pragma once
// How a panel of int8 weights is summed in int16 lanes without an error (docs/numerics.md, "Sums in int16").
//
// A lane of int16 receives two neighbouring weights of each step of four values of depth. With inputs in [0,
// quant_max], a sum over any steps stays in its range while
//   quant_max * (sum of the positive weights) <= 32767 and quant_max * (sum of the negative ones' magnitudes) <= 32768.
// A window is a run of steps for which this holds. Where a few lanes break it, their weights are cut down to what is
// safe, and what was cut off, the excess, is multiplied in steps of its own.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/epilogue/epilogue.h"

namespace qstep::kernels {

inline constexpr int step_depth = 4;                   ///< values of depth in a step
inline constexpr int half_columns = tile_columns / 2;  ///< columns of a vector of 32 bytes
inline constexpr int step_weights = tile_columns * step_depth;
inline constexpr int half_weights = half_columns * step_depth;

/// Weights that a lane of int16 receives: sums of the positive ones and of the magnitudes of the negative ones.
struct LaneSums {
  int32_t positive = 0;
  int32_t negative = 0;

  void add(int32_t w) { (w > 0 ? positive : negative) += std::abs(w); }
  bool fits(const LaneSums& largest) const { return positive <= largest.positive && negative <= largest.negative; }

  /// With inputs in [0, quant_max] no sum leaves int16 where both are up to these.
  static LaneSums largest(int32_t quant_max) { return {INT16_MAX / quant_max, -INT16_MIN / quant_max}; }
};

/// Lengths of the longest windows that cover a panel of int8_t or int16_t; none where one step alone may saturate.
template <class Weight>
std::vector<int32_t> cut_windows(std::span<const Weight> panel, int32_t quant_max);

/// What was cut off one half of the columns in one step.
struct ExcessStep {
  int32_t step;
  int8_t weights[half_weights];  ///< [half_columns][step_depth]
};

/// One panel, [steps][tile_columns][step_depth], ready to be multiplied.
struct Int16Windows {
  int window = 0;                     ///< all windows have so many steps, the last one fewer; 0: as `lengths` says
  std::vector<int32_t> lengths;       ///< of windows that end where a lane would leave int16
  std::vector<ExcessStep> excess[2];  ///< of the left and of the right half; none where window is 0
  double cost = 0;                    ///< time of a tile, in those of one step of vpmaddwd on int16
};

inline constexpr int any_window = 8;  ///< as long as windows of constant length can be

/// The fastest of all ways to sum a panel, judged by measured costs, with windows of constant length of up to
/// `longest_window` steps. Cuts the excess off `panel`.
Int16Windows plan_int16_windows(std::span<int8_t> panel, int32_t quant_max, int longest_window = any_window);

}  // namespace qstep::kernels
