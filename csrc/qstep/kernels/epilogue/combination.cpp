#include "qstep/kernels/epilogue/combination.h"

#include <cmath>

#include "qstep/core/error.h"
#include "qstep/core/rounding.h"
#include "qstep/kernels/epilogue/epilogue.h"

namespace qstep::kernels {

void validate(const Combination& c, int64_t channels, std::string_view operation) {
  const auto count = static_cast<size_t>(channels);
  if (c.empty()) return;
  require(c.constants.size() == count && c.shifts.size() == count,
          "{}: there must be {} constants and shifts, one per channel, got {} and {}", operation, channels,
          c.constants.size(), c.shifts.size());
  const size_t sums = c.multipliers.size() / count;
  require(c.multipliers.size() % count == 0 && sums <= max_sums,
          "{}: there must be up to {} x {} multipliers of sums, got {}", operation, max_sums, channels,
          c.multipliers.size());
  for (const int8_t shift : c.shifts) {
    require(shift >= 0 && shift <= 62, "{}: shift must be in [0, 62], got {}", operation, shift);
  }
}

Combiner::Combiner(const Combination& c, int64_t largest)
    : sums_(c.sums()),
      multipliers_(c.multipliers.begin(), c.multipliers.end()),
      constants_(c.constants.begin(), c.constants.end()),
      shifts_(c.shifts.begin(), c.shifts.end()) {
  if (c.empty() || largest >= int64_t{1} << 53) return;
  const size_t channels = constants_.size();
  const size_t padded = channels + tile_columns;
  factor_stride_ = static_cast<int64_t>(padded);
  factors_.resize((static_cast<size_t>(sums_) + 1) * padded, 0.0);
  for (size_t channel = 0; channel < channels; ++channel) {
    const auto unit = [&](int64_t x) { return std::ldexp(static_cast<double>(x), -shifts_[channel]); };
    const auto sums = static_cast<size_t>(sums_);
    for (size_t k = 0; k < sums; ++k) factors_[k * padded + channel] = unit(multipliers_[k * channels + channel]);
    factors_[sums * padded + channel] = unit(constants_[channel]);
  }
}

int64_t Combiner::steps(const int32_t* accumulators, int64_t stride, int64_t channel) const {
  const auto c = static_cast<size_t>(channel);
  int64_t t = constants_[c];
  for (int k = 0; k < sums_; ++k) {
    t += int64_t{multipliers_[static_cast<size_t>(k) * constants_.size() + c]} * accumulators[k * stride];
  }
  return core::shift_right_half_even(t, shifts_[c]);
}

}  // namespace qstep::kernels
