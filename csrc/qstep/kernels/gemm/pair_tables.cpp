#include "qstep/kernels/gemm/pair_tables.h"

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <limits>

#include "qstep/core/error.h"
#include "qstep/kernels/gemm/pack_panels.h"
#include "qstep/kernels/gemm/panel_gemm.h"

namespace qstep::kernels {
namespace {

constexpr int weight_levels = 1 << (PairTables::place_bits / PairTables::pair);
constexpr int table_size = 1 << PairTables::place_bits;

int16_t lowest_level(std::span<const int16_t> weights) { return std::min<int16_t>(std::ranges::min(weights), 0); }

bool entries_fit(const GemmProblem& problem) {
  return problem.sums() == 1 && problem.quant_max < PairTables::most_codes &&
         std::max<int16_t>(std::ranges::max(problem.weights), 0) - lowest_level(problem.weights) < weight_levels;
}

/// True where a column's whole depth fits 16 bits.
bool sums_fit(const GemmProblem& problem) {
  for (size_t k = 0; k < problem.weights.size(); k += static_cast<size_t>(problem.depth)) {
    int64_t sum = 0;
    for (const int16_t w : problem.weights.subspan(k, static_cast<size_t>(problem.depth))) sum += std::abs(w);
    if (problem.quant_max * sum > UINT16_MAX) return false;
  }
  return true;
}

/// Lengths of the longest windows that cover `columns` neighbouring columns; none where a step alone is too much.
std::vector<int32_t> cut_windows(const GemmProblem& problem, int64_t first_column, int64_t columns) {
  const int32_t largest = UINT8_MAX / problem.quant_max;
  std::vector<int32_t> window(static_cast<size_t>(columns), 0);
  std::vector<int32_t> lengths{0};
  for (int64_t first = 0; first < problem.depth; first += PairTables::depth_step) {
    const int64_t end = std::min(first + PairTables::depth_step, problem.depth);
    std::vector<int32_t> step(static_cast<size_t>(columns), 0);
    for (int64_t n = 0; n < columns; ++n) {
      const int16_t* weights = problem.weights.data() + (first_column + n) * problem.depth;
      for (int64_t k = first; k < end; ++k) step[static_cast<size_t>(n)] += std::abs(weights[k]);
    }
    if (std::ranges::max(step) > largest) return {};
    std::ranges::transform(window, step, window.begin(), std::plus{});
    if (std::ranges::max(window) > largest) {
      lengths.push_back(0);
      window = step;
    }
    ++lengths.back();
  }
  return lengths;
}

/// Windows of [groups][blocks]; none at all where the problem does not fit.
std::vector<std::vector<int32_t>> cut_windows(const GemmProblem& problem, int64_t groups, const PairTableShape& shape) {
  if (!entries_fit(problem) || !sums_fit(problem)) return {};
  const int64_t block_columns = int64_t{shape.vector_panels} * shape.block_vectors * tile_columns;
  const int64_t group_columns = problem.columns / groups;
  std::vector<std::vector<int32_t>> windows;
  for (int64_t group = 0; group < groups; ++group) {
    for (int64_t n = 0; n < group_columns; n += block_columns) {
      windows.push_back(cut_windows(problem, group * group_columns + n, std::min(block_columns, group_columns - n)));
      if (windows.back().empty()) return {};
    }
  }
  return windows;
}

}  // namespace

bool PairTables::fit(const GemmProblem& problem, int64_t groups, const PairTableShape& shape) {
  return !cut_windows(problem, groups, shape).empty();
}

double PairTables::cost(const GemmProblem& problem, int64_t groups, const PairTableShape& shape,
                        const PairTableCosts& costs) {
  const auto windows = cut_windows(problem, groups, shape);
  if (windows.empty()) return std::numeric_limits<double>::infinity();
  const int64_t panels = ceil_divide(problem.columns / groups, tile_columns);
  const auto vectors = static_cast<double>(ceil_divide(panels, shape.vector_panels));
  const auto blocks = static_cast<double>(windows.size()) / static_cast<double>(groups);
  double block_windows = 0;
  for (const auto& lengths : windows) block_windows += static_cast<double>(lengths.size());
  const double steps = static_cast<double>(ceil_divide(problem.depth, depth_step));
  const double group_cost = steps * (costs.step + blocks * costs.block_step + vectors * costs.vector_step) +
                            block_windows / static_cast<double>(windows.size()) * vectors * costs.window +
                            static_cast<double>(panels) * costs.panel;
  return group_cost / static_cast<double>(panels * ceil_divide(problem.depth, 4));
}

PairTables::PairTables(const GemmProblem& problem, int64_t groups, const PairTableShape& shape)
    : windows_(cut_windows(problem, groups, shape)) {
  require(!windows_.empty(), "gemm: products of these weights with codes up to {} do not fit tables of bytes",
          problem.quant_max);
  const int16_t lowest = lowest_level(problem.weights);
  const auto offset = [&](int w) { return problem.quant_max * std::max(-w, 0); };
  for (int b = 0; b <= problem.quant_max; ++b) {
    for (int a = 0; a < most_codes; ++a) {
      for (int i = 0; i < shape.table_copies * table_size; ++i) {
        const int v = lowest + i % weight_levels;
        const int w = lowest + i % table_size / weight_levels;
        tables_.push_back(static_cast<uint8_t>(a * v + b * w + offset(v) + offset(w)));
      }
    }
  }

  const int64_t pairs = ceil_divide(problem.depth, depth_step) * step_pairs;
  const int64_t vector_columns = int64_t{shape.vector_panels} * tile_columns;
  const int64_t panels = ceil_divide(problem.columns / groups, tile_columns);  // of a group
  const int64_t block_panels = int64_t{shape.vector_panels} * shape.block_vectors;
  for (int64_t group = 0; group < groups; ++group) {
    for (int64_t first = 0; first < panels; first += block_panels) {
      const int64_t count = std::min(panels - first, block_panels);
      const int64_t vectors = ceil_divide(count, shape.vector_panels);
      for (int64_t p = 0; p < count; ++p) {
        places_.push_back({static_cast<int>(vectors), weights_.size(),
                           static_cast<size_t>(group * ceil_divide(panels, block_panels) + first / block_panels),
                           p % shape.vector_panels, p / shape.vector_panels});
      }
      weights_.resize(weights_.size() + static_cast<size_t>(vectors * pairs * vector_columns), 0);
    }
  }

  AlignedVector<int8_t> weights;  // [panels][pairs][tile_columns][pair]
  pack_panels<pair>(problem, groups, pairs, weights);
  offsets_.assign(places_.size() * tile_columns, 0);
  for (size_t panel = 0; panel < places_.size(); ++panel) {
    const Place& place = places_[panel];
    const int64_t half_panels = shape.vector_panels / 2;
    const int64_t first_byte = place.vector * vector_columns + place.in_vector % half_panels * 2 * tile_columns +
                               place.in_vector / half_panels;
    const int8_t* vw = weights.data() + static_cast<int64_t>(panel) * pairs * tile_columns * pair;
    for (int64_t p = 0; p < pairs; ++p) {
      uint8_t* indices = weights_.data() + place.weights + p * place.vectors * vector_columns + first_byte;
      for (size_t n = 0; n < tile_columns; ++n, vw += pair) {
        indices[2 * n] = static_cast<uint8_t>(vw[0] - lowest + (vw[1] - lowest) * weight_levels);
        offsets_[panel * tile_columns + n] += offset(vw[0]) + offset(vw[1]);
      }
    }
  }
}

size_t PairTables::bytes() const {
  size_t windows = 0;
  for (const auto& lengths : windows_) windows += lengths.size();
  return tables_.size() + weights_.size() + (offsets_.size() + windows) * sizeof(int32_t) +
         places_.size() * sizeof(Place);
}

PairTables::Block PairTables::block(int64_t first_panel) const {
  const Place& place = places_[static_cast<size_t>(first_panel)];
  return {place.vectors, weights_.data() + place.weights, windows_[place.windows]};
}

}  // namespace qstep::kernels
