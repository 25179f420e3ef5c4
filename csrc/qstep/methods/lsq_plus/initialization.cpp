#include "qstep/methods/lsq_plus/initialization.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "qstep/methods/lsq_plus/cpu.h"

namespace qstep::methods::lsq_plus {
namespace {

struct Candidate {
  ScaleAndOffset grid;
  double error = std::numeric_limits<double>::infinity();
};

/// Evaluates grids on the sample and counts how often.
class Search {
 public:
  Search(const std::vector<float>& sample, int32_t quant_min, int32_t quant_max)
      : sample_(sample), quant_min_(quant_min), quant_max_(quant_max) {}

  int evaluations() const { return evaluations_; }
  double low(const Candidate& candidate) const { return value_of(candidate, quant_min_); }
  double high(const Candidate& candidate) const { return value_of(candidate, quant_max_); }

  /// Replaces `best` by the grid where that is better.
  void try_grid(double scale, double offset, Candidate& best) {
    const ScaleAndOffset tried{static_cast<float>(scale), static_cast<float>(offset)};
    if (!(tried.scale >= std::numeric_limits<float>::min()) || !std::isfinite(tried.scale)) return;
    evaluations_ += 1;
    const Grid<float> grid{tried.scale, tried.offset, static_cast<float>(quant_min_), static_cast<float>(quant_max_)};
    const double error = sum_squared_error(sample_.data(), static_cast<int64_t>(sample_.size()), grid);
    if (error < best.error) best = {tried, error};
  }

  /// The same for the grid whose first code stands for low and whose last code stands for high.
  void try_span(double low, double high, Candidate& best) {
    const double scale = (high - low) / (quant_max_ - quant_min_);
    try_grid(scale, low - quant_min_ * scale, best);
  }

 private:
  static double value_of(const Candidate& candidate, int32_t code) {
    return static_cast<double>(candidate.grid.offset) + code * static_cast<double>(candidate.grid.scale);
  }

  const std::vector<float>& sample_;
  int32_t quant_min_;
  int32_t quant_max_;
  int evaluations_ = 0;
};

/// Scale alone: 96 scales from 1.1 to 0.02 times that of the whole range, 65 closely around the best (with many codes
/// and few values the error is a jagged function of the scale), then steps.
Candidate search_scale(Search& search, Candidate best) {
  const auto whole_range_scale = static_cast<double>(best.grid.scale);
  search.try_grid(whole_range_scale, 0.0, best);  // exactly: the largest value may be a frequent one, the 6 of a ReLU6
  double scale = 1.1 * whole_range_scale;
  for (int i = 0; i < 96; ++i, scale *= 0.96) search.try_grid(scale, 0.0, best);
  const auto coarse = static_cast<double>(best.grid.scale);
  for (int i = -32; i <= 32; ++i) search.try_grid(coarse * (1.0 + i * (0.04 / 32)), 0.0, best);
  for (double step = 0.04 / 64; search.evaluations() + 2 <= max_evaluations;) {
    const double error = best.error;
    const auto center = static_cast<double>(best.grid.scale);
    search.try_grid(center * (1.0 + step), 0.0, best);
    search.try_grid(center * (1.0 - step), 0.0, best);
    if (best.error == error) step /= 2;
  }
  return best;
}

/// Moves one end of the span or both, by steps that halve when none helps, until `last_evaluation`.
Candidate descend(Search& search, Candidate best, int last_evaluation) {
  double step = 0.06 * (search.high(best) - search.low(best));
  while (search.evaluations() + 6 <= last_evaluation && step > 0.0) {
    const double error = best.error;
    const double low = search.low(best);
    const double high = search.high(best);
    search.try_span(low + step, high, best);
    search.try_span(low - step, high, best);
    search.try_span(low, high + step, best);
    search.try_span(low, high - step, best);
    search.try_span(low + step, high + step, best);
    search.try_span(low - step, high - step, best);
    if (best.error == error) step /= 2;
  }
  return best;
}

/// Both ends of the grid. First pairs of quantiles, as few values should be clipped, and wide grids with a code at
/// the median, for most values in one place and a few far out. Then descent from the best, and from half a code
/// beside it: with few codes, a code at the middle of the values and a middle between two codes are valleys apart. A
/// shift by one code gives back a wasted one.
Candidate search_span(Search& search, Candidate best, const std::vector<float>& sorted, int32_t steps) {
  constexpr double tails[] = {0.0, 0.0005, 0.003, 0.012, 0.03, 0.06, 0.1, 0.17};
  const size_t last = sorted.size() - 1;
  std::vector<float> lows;
  std::vector<float> highs;
  for (const double tail : tails) {
    const auto rank = static_cast<size_t>(tail * static_cast<double>(last));
    if (lows.empty() || sorted[rank] != lows.back()) lows.push_back(sorted[rank]);
    if (highs.empty() || sorted[last - rank] != highs.back()) highs.push_back(sorted[last - rank]);
  }
  for (const double low : lows) {
    for (const double high : highs) {
      if (low < high) search.try_span(low, high, best);
    }
  }
  const double min = sorted.front();
  const double max = sorted.back();
  const double median = sorted[last / 2];
  for (double width = 1.1 * (max - min); width > 0.2 * (max - min); width *= 0.8) {
    const double scale = width / steps;
    const double from_min = median - std::round((median - min) / scale) * scale;
    const double to_max = median + std::round((max - median) / scale) * scale;
    search.try_span(from_min, from_min + width, best);
    search.try_span(to_max - width, to_max, best);
  }
  best = descend(search, best, search.evaluations() + 48);
  const double code = best.grid.scale;
  const double low = search.low(best);
  const double high = search.high(best);
  Candidate beside;
  for (const double growth : {-code / 4, 0.0, code / 4}) {
    search.try_span(low + code / 2 - growth, high + code / 2 + growth, beside);
    search.try_span(low - code / 2 - growth, high - code / 2 + growth, beside);
  }
  search.try_span(low + code, high + code, best);
  search.try_span(low - code, high - code, best);
  beside = descend(search, beside, (search.evaluations() + max_evaluations) / 2);
  best = descend(search, best, max_evaluations);
  return beside.error < best.error ? beside : best;
}

}  // namespace

ScaleAndOffset min_max_grid(float min, float max, int32_t quant_min, int32_t quant_max, bool learn_offset) {
  const double low = min;
  const double high = max;
  double scale = 0.0;
  if (learn_offset) {
    scale = (high - low) / (static_cast<double>(quant_max) - quant_min);
  } else {
    if (quant_max > 0 && high > 0.0) scale = high / quant_max;
    if (quant_min < 0 && low < 0.0) scale = std::max(scale, low / quant_min);
  }
  if (!(scale >= static_cast<double>(std::numeric_limits<float>::min()))) return {1.0F, learn_offset ? min : 0.0F};
  return {static_cast<float>(scale), learn_offset ? static_cast<float>(low - quant_min * scale) : 0.0F};
}

ScaleAndOffset least_error_grid(std::vector<float> sample, int32_t quant_min, int32_t quant_max, bool learn_offset) {
  std::sort(sample.begin(), sample.end());
  const ScaleAndOffset whole_range = min_max_grid(sample.front(), sample.back(), quant_min, quant_max, learn_offset);
  if (sample.front() == sample.back()) return whole_range;
  Search search(sample, quant_min, quant_max);
  const Candidate start{whole_range};  // what stays where squares overflow
  const Candidate best =
      learn_offset ? search_span(search, start, sample, quant_max - quant_min) : search_scale(search, start);
  return best.grid;
}

std::vector<int64_t> sample_positions(int64_t n) {
  std::vector<int64_t> positions(static_cast<size_t>(std::min(n, sample_size)));
  // Multiples of the golden ratio modulo 1, as 64-bit fractions: no two are close, and they follow no stride of the
  // tensor.
  constexpr uint64_t golden_ratio = 0x9E3779B97F4A7C15U;
  uint64_t fraction = 0;
  for (size_t i = 0; i < positions.size(); ++i, fraction += golden_ratio) {
    positions[i] =
        n <= sample_size
            ? static_cast<int64_t>(i)
            : static_cast<int64_t>((static_cast<unsigned __int128>(fraction) * static_cast<uint64_t>(n)) >> 64);
  }
  return positions;
}

}  // namespace qstep::methods::lsq_plus
