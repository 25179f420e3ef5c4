#pragma once
// Several accumulators of one output made one number (piecewise weights):
//
//   t = sum_k multipliers[k][c] * acc_k + constants[c],     steps = shift_right_half_even(t, shifts[c])
//   code = clamp(steps + zero_point, clamp_min, clamp_max), or the steps themselves as an int32 accumulator
#include <cstdint>
#include <span>
#include <string_view>

#include "qstep/kernels/aligned_vector.h"

namespace qstep::kernels {

inline constexpr int max_sums = 8;

/// No multipliers: there is one accumulator, and nothing to combine.
struct Combination {
  std::span<const int32_t> multipliers;  ///< [sums][channels], sums in [1, max_sums]
  std::span<const int64_t> constants;    ///< [channels]
  std::span<const int8_t> shifts;        ///< [channels], 0..62

  bool empty() const { return multipliers.empty(); }
  int sums() const { return empty() ? 1 : static_cast<int>(multipliers.size() / constants.size()); }
};

/// Throws Error where a size or a shift is wrong. `operation` begins the message.
void validate(const Combination& combination, int64_t channels, std::string_view operation);

/// A Combination with memory of its own.
class Combiner {
 public:
  Combiner() = default;
  /// largest: no |t| is larger, proved from the weights; below 2^62.
  Combiner(const Combination& combination, int64_t largest);

  bool empty() const { return constants_.empty(); }
  int sums() const { return sums_; }

  /// shift_right_half_even(t): accumulator k is accumulators[k * stride].
  int64_t steps(const int32_t* accumulators, int64_t stride, int64_t channel) const;

  /// The same in doubles, multiplier / 2^shift and constant / 2^shift, where every t is below 2^53 and hence exact:
  /// [sums + 1][padded channels], the constants last. Null elsewhere.
  const double* factors() const { return factors_.empty() ? nullptr : factors_.data(); }
  int64_t factor_stride() const { return factor_stride_; }

 private:
  int sums_ = 1;
  AlignedVector<int32_t> multipliers_;
  AlignedVector<int64_t> constants_;
  AlignedVector<int8_t> shifts_;
  AlignedVector<double> factors_;
  int64_t factor_stride_ = 0;
};

}  // namespace qstep::kernels
