#include "qstep/methods/lsq_plus/initialization.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "qstep/methods/lsq_plus/cpu.h"

namespace qstep::methods::lsq_plus {
namespace {

/// The least error seen so far and where; counts evaluations.
class Search {
 public:
  Search(const std::vector<float>& sample, int32_t quant_min, int32_t quant_max)
      : sample_(sample), quant_min_(quant_min), quant_max_(quant_max) {}

  void try_grid(double scale, double offset) {
    const auto used = ScaleAndOffset{static_cast<float>(scale), static_cast<float>(offset)};
    if (!(used.scale >= std::numeric_limits<float>::min()) || !std::isfinite(used.scale)) return;
    evaluations_ += 1;
    const Grid<float> grid{used.scale, used.offset, static_cast<float>(quant_min_), static_cast<float>(quant_max_)};
    const double error = sum_squared_error(sample_.data(), static_cast<int64_t>(sample_.size()), grid);
    if (error < least_error_) {
      least_error_ = error;
      best_ = used;
    }
  }

  /// The grid whose first code stands for low and whose last code stands for high.
  void try_span(double low, double high) {
    const double scale = (high - low) / (quant_max_ - quant_min_);
    try_grid(scale, low - quant_min_ * scale);
  }

  bool has_room_for(int evaluations) const { return evaluations_ + evaluations <= max_evaluations; }
  ScaleAndOffset best() const { return best_; }
  double best_low() const { return static_cast<double>(best_.offset) + quant_min_ * static_cast<double>(best_.scale); }
  double best_high() const { return static_cast<double>(best_.offset) + quant_max_ * static_cast<double>(best_.scale); }
  double least_error() const { return least_error_; }

 private:
  const std::vector<float>& sample_;
  int32_t quant_min_;
  int32_t quant_max_;
  int evaluations_ = 0;
  double least_error_ = std::numeric_limits<double>::infinity();
  ScaleAndOffset best_;
};

/// Scale alone: 96 scales from 1.1 to 0.02 times that of the whole range, then steps around the best.
void search_scale(Search& search, double whole_range_scale) {
  double scale = 1.1 * whole_range_scale;
  for (int i = 0; i < 96; ++i, scale *= 0.96) search.try_grid(scale, 0.0);
  for (double step = 0.03; search.has_room_for(2);) {
    const double error = search.least_error();
    const auto center = static_cast<double>(search.best().scale);
    search.try_grid(center * (1.0 + step), 0.0);
    search.try_grid(center * (1.0 - step), 0.0);
    if (search.least_error() == error) step /= 2;
  }
}

/// Both ends of the grid: pairs of quantiles, which is where few bits clip, then steps of one end or of both.
void search_span(Search& search, const std::vector<float>& sorted) {
  constexpr double tails[] = {0.0, 0.0005, 0.002, 0.008, 0.02, 0.04, 0.07, 0.1, 0.14, 0.2};
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
      if (low < high) search.try_span(low, high);
    }
  }
  for (double step = 0.06 * (search.best_high() - search.best_low()); search.has_room_for(6);) {
    const double error = search.least_error();
    const double low = search.best_low();
    const double high = search.best_high();
    search.try_span(low + step, high);
    search.try_span(low - step, high);
    search.try_span(low, high + step);
    search.try_span(low, high - step);
    search.try_span(low + step, high + step);
    search.try_span(low - step, high - step);
    if (search.least_error() == error) step /= 2;
    if (!(step > 0.0)) break;
  }
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
  if (learn_offset) {
    search_span(search, sample);
  } else {
    search_scale(search, whole_range.scale);
  }
  return search.best();
}

std::vector<int64_t> sample_positions(int64_t n) {
  std::vector<int64_t> positions(static_cast<size_t>(std::min(n, sample_size)));
  // Multiples of the golden ratio modulo 1, as 64-bit fractions: no two are close, and they follow no stride of the tensor.
  constexpr uint64_t golden_ratio = 0x9E3779B97F4A7C15U;
  uint64_t fraction = 0;
  for (size_t i = 0; i < positions.size(); ++i, fraction += golden_ratio) {
    positions[i] = n <= sample_size ? static_cast<int64_t>(i)
                                    : static_cast<int64_t>((static_cast<unsigned __int128>(fraction) * static_cast<uint64_t>(n)) >> 64);
  }
  return positions;
}

}  // namespace qstep::methods::lsq_plus
