#include "qstep/kernels/epilogue/epilogue.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "qstep/core/error.h"

namespace qstep::kernels {

using core::Multiplier;
using core::RequantPolicy;

namespace {

void validate(const Multiplier& m, RequantPolicy policy, std::string_view operation) {
  const int64_t magnitude = std::abs(int64_t{m.multiplier});
  const auto in_range = [&](int64_t low, int64_t high, int min_shift, int max_shift) {
    require(magnitude == 0 || (magnitude >= low && magnitude < high),
            "{}: multiplier must be 0 or of magnitude in [{}, {}), got {}", operation, low, high, m.multiplier);
    require(m.shift >= min_shift && m.shift <= max_shift, "{}: shift must be in [{}, {}], got {}", operation, min_shift,
            max_shift, m.shift);
  };
  switch (policy) {
    case RequantPolicy::exact:
      return in_range(int64_t{1} << 23, int64_t{1} << 24, 0, 62);
    case RequantPolicy::gemmlowp:
      return in_range(int64_t{1} << 30, int64_t{1} << 31, -31, 30);
    case RequantPolicy::shift:
      require(m.multiplier == 1, "{}: multiplier must be 1 under the policy shift, got {}", operation, m.multiplier);
      return in_range(1, 2, -31, 62);
  }
  fail("{}: unknown requantization policy {}", operation, static_cast<int>(policy));
}

/// True where acc * factor stays below `most_steps` for all channels.
bool stays_below(double most_steps, std::span<const Multiplier> multipliers, int64_t accumulator_bound) {
  return std::ranges::all_of(multipliers, [&](const Multiplier& m) {
    return std::ldexp(std::fabs(m.multiplier) * static_cast<double>(accumulator_bound), -m.shift) < most_steps;
  });
}

/// multiplier / 2^shift, exact in either type, and zeros for another tile.
template <class T>
void append_factors(std::span<const Multiplier> multipliers, AlignedVector<T>& factors) {
  for (const Multiplier& m : multipliers) factors.push_back(std::ldexp(static_cast<T>(m.multiplier), -m.shift));
  factors.resize(factors.size() + tile_columns, T{0});
}

}  // namespace

void validate(const Requantization& r, int64_t channels, std::string_view operation) {
  const auto count = static_cast<int64_t>(r.multipliers.size());
  require(count <= 1 || count == channels,
          "{}: there must be one multiplier, or one for each of the {} channels, got {}", operation, channels, count);
  for (const Multiplier& m : r.multipliers) validate(m, r.policy, operation);
  require(0 <= r.clamp_min && r.clamp_min <= r.clamp_max && r.clamp_max <= 255,
          "{}: clamp must satisfy 0 <= clamp_min <= clamp_max <= 255, got [{}, {}]", operation, r.clamp_min,
          r.clamp_max);
  require(0 <= r.zero_point && r.zero_point <= 255, "{}: zero_point must be in [0, 255], got {}", operation,
          r.zero_point);
  require(r.multipliers.empty() || r.combination.empty(), "{}: combined sums take no multipliers of their own, got {}",
          operation, r.multipliers.size());
  validate(r.combination, channels, operation);
}

Epilogue::Epilogue(const Requantization& r, int64_t channels, int64_t accumulator_bound)
    : policy_(r.policy),
      zero_point_(r.zero_point),
      clamp_min_(r.clamp_min),
      clamp_max_(r.clamp_max),
      combiner_(r.combination, accumulator_bound) {
  if (r.multipliers.empty()) return;
  const auto multiplier = [&](int64_t channel) {
    return r.multipliers[r.multipliers.size() == 1 ? 0 : static_cast<size_t>(channel)];
  };
  for (int64_t c = 0; c < channels; ++c) multipliers_.push_back(multiplier(c));
  if (policy_ == RequantPolicy::shift) {
    for (const Multiplier& m : multipliers_) shifts_.push_back(m.shift);
    shifts_.resize(shifts_.size() + tile_columns, 0);
  } else if (policy_ == RequantPolicy::exact) {
    if (accumulator_bound < int64_t{1} << 24 && stays_below(0x1p22, multipliers_, accumulator_bound)) {
      append_factors(multipliers_, float_factors_);
    } else if (stays_below(0x1p30, multipliers_, accumulator_bound)) {
      append_factors(multipliers_, factors_);
    }
  }
}

}  // namespace qstep::kernels
