#pragma once
// Breakpoints from the weights themselves: those of least squared error, and those on a common grid. Host only, no
// torch.
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "qstep/methods/pwlq/math.h"

namespace qstep::methods::pwlq {

/// Step of the first piece [0, p]. `paper`: sign and b - 1 bits of magnitude, p itself is a code. `repo`, as the
/// authors' code has it: b bits over [-p, p], 2 p / (2^b - 1), so that p lies half a step beyond the last code.
enum class Scheme : uint8_t { paper, repo };

/// The first piece's step is p / first_piece_steps(...).
double first_piece_steps(Scheme scheme, int64_t bit_width);

/// Pieces between these breakpoints on [0, max].
Pieces<double> make_pieces(std::span<const double> breakpoints, double max, int64_t bit_width, Scheme scheme);

/// Sum of (w - w_hat)^2.
double squared_error(std::span<const double> weights, const Pieces<double>& pieces);

/// Algorithm 1 of the supplement: the breakpoint of least squared error on a grid of 0.1 max, then of 0.01 max around
/// the best, then of 0.001 max. Several breakpoints: every choice on the first grid, then one after the other on the
/// finer grids until none moves. What `breakpoints` holds is tried as well. No piece is narrower than 0.02 max, no
/// breakpoint is beyond that of equal pieces (p <= m / 2). max is the largest magnitude, > 0.
void search_breakpoints(std::span<const double> weights, double max, int64_t bit_width, Scheme scheme,
                        std::span<double> breakpoints);

inline constexpr int32_t largest_level = INT16_MAX;

/// A code book: every level of every piece is a multiple of one unit,
///   unit * (start[r] + step[r] * q),
/// and the largest at most largest_level.
struct CommonGrid {
  double unit = 1.0;
  std::array<int32_t, max_pieces> start{};
  std::array<int32_t, max_pieces> step{};
};

Pieces<double> pieces_of(const CommonGrid& grid, size_t breakpoints, int64_t bit_width);

/// All levels of both signs in units, ascending, each once.
std::vector<int32_t> levels_of(const CommonGrid& grid, size_t breakpoints, int64_t bit_width);

/// The grid of least squared error on the weights that a descent from the given breakpoints finds: the steps of the
/// outer pieces become whole multiples of the first piece's (`repo`: of half of it), max stays where it is.
CommonGrid snap_to_common_grid(std::span<const double> weights, double max, int64_t bit_width, Scheme scheme,
                               std::span<const double> breakpoints);

}  // namespace qstep::methods::pwlq
