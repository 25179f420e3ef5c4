#include "qstep/methods/pwlq/search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

namespace qstep::methods::pwlq {
namespace {

using Counts = std::array<int32_t, max_pieces>;

/// Breakpoints in thousandths of the range, so that the grids of the search are integers.
class GridSearch {
 public:
  GridSearch(std::span<const double> weights, double max, int64_t bit_width, Scheme scheme, size_t count)
      : weights_(weights), max_(max), bit_width_(bit_width), scheme_(scheme), count_(count) {}

  void try_guess(std::span<const double> breakpoints) {
    Counts tried{};
    for (size_t l = 0; l < count_; ++l) tried[l] = static_cast<int32_t>(std::lround(range * breakpoints[l] / max_));
    try_one(tried);
  }

  /// Every choice of breakpoints at multiples of `step`.
  void try_all(int32_t step) {
    Counts tried{};
    try_all(std::span(tried).first(count_), 0, step, tried);
  }

  /// Moves single breakpoints of the best by up to nine steps, again and again while that helps.
  void refine(int32_t step) {
    double before = std::numeric_limits<double>::infinity();
    while (error_ < before) {
      before = error_;
      for (size_t l = 0; l < count_; ++l) {
        const Counts centre = best_;
        for (int32_t k = -9; k <= 9; ++k) {
          Counts tried = centre;
          tried[l] += k * step;
          try_one(tried);
        }
      }
    }
  }

  double best(size_t l) const { return max_ * best_[l] / range; }

 private:
  static constexpr int32_t range = 1000;

  /// Every choice for the breakpoints `open`, the last ones of `tried`, above `before`.
  void try_all(std::span<int32_t> open, int32_t before, int32_t step, const Counts& tried) {
    if (open.empty()) return try_one(tried);
    for (open[0] = before + step; open[0] < range; open[0] += step) try_all(open.subspan(1), open[0], step, tried);
  }

  void try_one(const Counts& tried) {
    constexpr auto narrowest = static_cast<int32_t>(narrowest_piece * range);
    int32_t before = 0;
    for (size_t l = 0; l < count_; ++l) {
      const auto equal_pieces = static_cast<int32_t>(range * (l + 1) / (count_ + 1));
      if (tried[l] < before + narrowest || tried[l] > equal_pieces) return;
      before = tried[l];
    }
    std::array<double, max_breakpoints> breakpoints{};
    for (size_t l = 0; l < count_; ++l) breakpoints[l] = max_ * tried[l] / range;
    const double error =
        squared_error(weights_, make_pieces(std::span(breakpoints).first(count_), max_, bit_width_, scheme_));
    if (error < error_) {
      error_ = error;
      best_ = tried;
    }
  }

  std::span<const double> weights_;
  double max_;
  int64_t bit_width_;
  Scheme scheme_;
  size_t count_;
  Counts best_{};
  double error_ = std::numeric_limits<double>::infinity();
};

/// The common grid whose outer pieces have these steps, in units.
CommonGrid common_grid(const Counts& outer_steps, size_t breakpoints, double max, int64_t bit_width, Scheme scheme) {
  const int32_t largest = largest_magnitude(bit_width);
  CommonGrid grid;
  grid.step[0] = scheme == Scheme::repo ? 2 : 1;
  int32_t end = scheme == Scheme::repo ? 2 * largest + 1 : largest;
  for (size_t r = 1; r <= breakpoints; ++r) {
    grid.start[r] = end;
    grid.step[r] = outer_steps[r];
    end += largest * outer_steps[r];
  }
  grid.unit = max / end;
  return grid;
}

}  // namespace

Pieces<double> pieces_of(const CommonGrid& grid, size_t breakpoints, int64_t bit_width) {
  Pieces<double> pieces{};
  for (size_t r = 0; r < max_pieces; ++r) {
    pieces.start[r] = r <= breakpoints ? grid.unit * grid.start[r] : std::numeric_limits<double>::infinity();
    pieces.step[r] = r <= breakpoints ? grid.unit * grid.step[r] : 1.0;
  }
  pieces.largest = largest_magnitude(bit_width);
  return pieces;
}

std::vector<int32_t> levels_of(const CommonGrid& grid, size_t breakpoints, int64_t bit_width) {
  std::set<int32_t> levels;
  for (size_t r = 0; r <= breakpoints; ++r) {
    for (int32_t q = 0; q <= largest_magnitude(bit_width); ++q) {
      levels.insert(grid.start[r] + grid.step[r] * q);
      levels.insert(-grid.start[r] - grid.step[r] * q);
    }
  }
  return {levels.begin(), levels.end()};
}

double first_piece_steps(Scheme scheme, int64_t bit_width) {
  const double largest = largest_magnitude(bit_width);
  return scheme == Scheme::repo ? largest + 0.5 : largest;
}

Pieces<double> make_pieces(std::span<const double> breakpoints, double max, int64_t bit_width, Scheme scheme) {
  Pieces<double> pieces{};
  pieces.largest = largest_magnitude(bit_width);
  double start = 0.0;
  for (size_t r = 0; r < max_pieces; ++r) {
    const bool used = r <= breakpoints.size();
    const double end = r < breakpoints.size() ? breakpoints[r] : max;
    pieces.start[r] = used ? start : std::numeric_limits<double>::infinity();
    pieces.step[r] = used ? (end - start) / (r == 0 ? first_piece_steps(scheme, bit_width) : pieces.largest) : 1.0;
    start = end;
  }
  return pieces;
}

double squared_error(std::span<const double> weights, const Pieces<double>& pieces) {
  double sum = 0.0;
  for (const double w : weights) {
    const double error = w - quantize(w, pieces);
    sum += error * error;
  }
  return sum;
}

void search_breakpoints(std::span<const double> weights, double max, int64_t bit_width, Scheme scheme,
                        std::span<double> breakpoints) {
  GridSearch search(weights, max, bit_width, scheme, breakpoints.size());
  search.try_guess(breakpoints);
  search.try_all(100);
  search.refine(10);
  search.refine(1);
  for (size_t l = 0; l < breakpoints.size(); ++l) breakpoints[l] = search.best(l);
}

CommonGrid snap_to_common_grid(std::span<const double> weights, double max, int64_t bit_width, Scheme scheme,
                               std::span<const double> breakpoints) {
  const size_t count = breakpoints.size();
  const double largest = largest_magnitude(bit_width);
  const double first_piece = scheme == Scheme::repo ? 2 * largest + 1 : largest;
  const double longest_step = std::floor((largest_level - first_piece) / (largest * static_cast<double>(count)));
  Counts steps{};
  for (size_t r = 1; r <= count; ++r) {
    const double width = (r < count ? breakpoints[r] : max) - breakpoints[r - 1];
    const double nearest = std::round(width / breakpoints[0] * first_piece / largest);
    steps[r] = static_cast<int32_t>(core::clamp(nearest, 1.0, longest_step));
  }
  const auto error_of = [&](const Counts& tried) {
    return squared_error(weights, pieces_of(common_grid(tried, count, max, bit_width, scheme), count, bit_width));
  };
  double best = error_of(steps);
  for (bool improved = true; improved;) {
    improved = false;
    for (size_t r = 1; r <= count; ++r) {
      for (const int32_t change : {-1, 1}) {
        Counts tried = steps;
        tried[r] += change;
        if (tried[r] < 1 || tried[r] > longest_step) continue;
        const double error = error_of(tried);
        if (error < best) {
          best = error;
          steps = tried;
          improved = true;
        }
      }
    }
  }
  return common_grid(steps, count, max, bit_width, scheme);
}

}  // namespace qstep::methods::pwlq
