#include "qstep/kernels/gemm/int16_windows.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

namespace qstep::kernels {
namespace {

constexpr int lanes = tile_columns * 2;
constexpr int half_lanes = lanes / 2;

// Measured on 6 x 16 tiles in the first-level cache, in units of one step with vpmaddwd. A window of constant length
// keeps its int32 accumulators in registers, and steps beyond the last whole one are windows of their own; one of any
// length has them in memory, but for the last.
struct ConstantWindow {
  int window;
  double cost_of_step;
};
constexpr std::array<ConstantWindow, 4> constant_windows{{{1, 0.79}, {2, 0.60}, {4, 0.54}, {any_window, 0.52}}};
constexpr double cost_of_step_in_memory = 0.495;
constexpr double cost_of_window_in_memory = 0.72;
constexpr double cost_of_last_window = 0.15;
constexpr double cost_of_excess_step = 0.45;

template <class Weight>
void add_pair(LaneSums& sums, const Weight* pair) {
  sums.add(pair[0]);
  sums.add(pair[1]);
}

template <class Weight>
int64_t step_count(std::span<Weight> panel) {
  return static_cast<int64_t>(panel.size()) / step_weights;
}

/// Cuts the excess off the windows of one half of a panel.
class Cutter {
 public:
  Cutter(std::span<int8_t> panel, int half, int64_t window, int32_t quant_max)
      : panel_(panel), half_(half), largest_(LaneSums::largest(quant_max)) {
    const int64_t steps = step_count(panel);
    for (int64_t first = 0; first < steps; first += window) cut_window(first, std::min(first + window, steps));
  }

  std::vector<ExcessStep> excess;

 private:
  int8_t* pair(int64_t step, int lane) const {
    return panel_.data() + step * step_weights + half_ * half_weights + 2 * lane;
  }

  void cut_window(int64_t first, int64_t end) {
    const size_t known = excess.size();
    for (int lane = 0; lane < half_lanes; ++lane) {
      LaneSums sums;
      for (int64_t s = first; s < end; ++s) add_pair(sums, pair(s, lane));
      cut_lane(known, first, end, lane, 1, sums.positive - largest_.positive, largest_.positive);
      cut_lane(known, first, end, lane, -1, sums.negative - largest_.negative, largest_.negative);
    }
  }

  /// Takes `surplus` off a lane's weights of one sign, where it costs least: from steps of this window, which are
  /// those from number `known` on, that have an excess already, then from those that yield most.
  void cut_lane(size_t known, int64_t first, int64_t end, int lane, int sign, int32_t surplus, int32_t largest) {
    const auto yield = [&](int64_t s) {
      const int8_t* w = pair(s, lane);
      return std::min(std::max(sign * w[0], 0) + std::max(sign * w[1], 0), largest);
    };
    for (size_t e = known; surplus > 0 && e < excess.size(); ++e) {
      if (yield(excess[e].step) > 0 && !has_lane(excess[e], lane))
        surplus -= move(excess[e], lane, sign, std::min(surplus, largest));
    }
    while (surplus > 0) {
      int64_t best = first;
      for (int64_t s = first; s < end; ++s) {
        if (yield(s) > yield(best)) best = s;
      }
      excess.push_back({static_cast<int32_t>(best), {}});
      surplus -= move(excess.back(), lane, sign, std::min(surplus, largest));
    }
  }

  static bool has_lane(const ExcessStep& e, int lane) {
    return e.weights[2 * lane] != 0 || e.weights[2 * lane + 1] != 0;
  }

  /// Moves up to `amount` of a lane's weights to the excess; returns how much there was.
  int32_t move(ExcessStep& to, int lane, int sign, int32_t amount) {
    int32_t moved = 0;
    for (int i = 0; i < 2; ++i) {
      int8_t& w = pair(to.step, lane)[i];
      const int32_t part = std::clamp(sign * w, 0, amount - moved);
      w = static_cast<int8_t>(w - sign * part);
      to.weights[2 * lane + i] = static_cast<int8_t>(sign * part);
      moved += part;
    }
    return moved;
  }

  std::span<int8_t> panel_;
  int half_;
  LaneSums largest_;
};

Int16Windows with_windows_in_memory(std::span<const int8_t> panel, int32_t quant_max) {
  Int16Windows plan{.lengths = cut_windows(panel, quant_max)};
  plan.cost = plan.lengths.empty()
                  ? std::numeric_limits<double>::infinity()
                  : cost_of_step_in_memory * static_cast<double>(step_count(panel)) +
                        cost_of_window_in_memory * static_cast<double>(plan.lengths.size() - 1) + cost_of_last_window;
  return plan;
}

/// Cuts the excess off `panel`.
Int16Windows with_constant_windows(std::span<int8_t> panel, int32_t quant_max, int window, double cost_of_step) {
  Int16Windows plan{.window = window};
  for (int half = 0; half < 2; ++half) plan.excess[half] = Cutter(panel, half, window, quant_max).excess;
  const int64_t steps = step_count(panel);
  plan.cost = cost_of_step * static_cast<double>(steps - steps % window) +
              constant_windows.front().cost_of_step * static_cast<double>(steps % window) +
              cost_of_excess_step * static_cast<double>(plan.excess[0].size() + plan.excess[1].size());
  return plan;
}

}  // namespace

template <class Weight>
std::vector<int32_t> cut_windows(std::span<const Weight> panel, int32_t quant_max) {
  const LaneSums largest = LaneSums::largest(quant_max);
  std::vector<int32_t> lengths;
  std::array<LaneSums, lanes> window{};
  int32_t length = 0;
  const auto extend = [&](const Weight* step) {
    std::array<LaneSums, lanes> longer = window;
    bool fits = true;
    for (int lane = 0; lane < lanes; ++lane) {
      add_pair(longer[lane], step + 2 * lane);
      fits &= longer[lane].fits(largest);
    }
    if (fits) window = longer;
    return fits;
  };
  for (int64_t s = 0; s < step_count(panel); ++s, ++length) {
    const Weight* step = panel.data() + s * step_weights;
    if (extend(step)) continue;
    lengths.push_back(length);
    length = 0;
    window = {};
    if (!extend(step)) return {};
  }
  lengths.push_back(length);
  return lengths;
}

template std::vector<int32_t> cut_windows(std::span<const int8_t>, int32_t);
template std::vector<int32_t> cut_windows(std::span<const int16_t>, int32_t);

Int16Windows plan_int16_windows(std::span<int8_t> panel, int32_t quant_max, int longest_window) {
  Int16Windows best = with_windows_in_memory(panel, quant_max);
  if (best.cost <= constant_windows.back().cost_of_step * static_cast<double>(step_count(panel))) return best;
  AlignedVector<int8_t> best_panel(panel.begin(), panel.end());
  for (const auto& [window, cost_of_step] : constant_windows) {
    if (window > longest_window) break;
    AlignedVector<int8_t> cut(panel.begin(), panel.end());
    Int16Windows plan = with_constant_windows(cut, quant_max, window, cost_of_step);
    const bool has_excess = !plan.excess[0].empty() || !plan.excess[1].empty();
    if (plan.cost < best.cost) {
      best = std::move(plan);
      best_panel = std::move(cut);
    }
    if (has_excess) break;  // longer windows have more
  }
  std::ranges::copy(best_panel, panel.begin());
  return best;
}

}  // namespace qstep::kernels
