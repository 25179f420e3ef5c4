#pragma once
// Piecewise linear quantization for one element and for one channel, on host and device.
//
// The breakpoints p_1 < ... < p_n cut [0, max|w|] into n + 1 pieces, the same on both sides of zero. Inside a piece
// the magnitude is uniform, with b - 1 bits; the sign is kept apart:
//
//   w_hat = sign(w) * (start_r + step_r * q)       q = clamp(round((|w| - start_r) / step_r), 0, 2^(b-1) - 1)
//   start_0 = 0, start_r = p_r                     step_r = (end_r - start_r) / (2^(b-1) - 1)
//
// Source: Fang et al., Post-Training Piecewise Linear Quantization for Deep Neural Networks, ECCV 2020: eq. 1 to 8,
// supplement for the fitted breakpoints. NaN gives NaN.
#include <cmath>
#include <cstdint>

#include "qstep/core/grid.h"
#include "qstep/core/platform.h"
#include "qstep/core/rounding.h"

namespace qstep::methods::pwlq {

inline constexpr int max_breakpoints = 3;
inline constexpr int max_pieces = max_breakpoints + 1;

/// 2^(b-1) - 1, the largest magnitude inside a piece.
QSTEP_HOST_DEVICE constexpr int32_t largest_magnitude(int64_t bit_width) { return (1 << (bit_width - 1)) - 1; }

// --- one element -----------------------------------------------------------------------------------------------------

/// The pieces of one channel. Those that are not in use start at infinity.
template <class F>
struct Pieces {
  F start[max_pieces];
  F step[max_pieces];  ///< > 0
  F largest;
};

template <class F>
struct Code {
  int32_t piece;
  F start;  ///< of that piece
  F step;
  F magnitude;  ///< an integer of [0, largest], or NaN
};

/// |w| equal to a breakpoint belongs to the piece above it.
template <class F>
QSTEP_HOST_DEVICE Code<F> encode(F w, const Pieces<F>& pieces) {
  const F magnitude = w < F(0) ? -w : w;
  int32_t piece = 0;
  F start = pieces.start[0];
  F step = pieces.step[0];
  for (int r = 1; r < max_pieces; ++r) {
    const bool above = magnitude >= pieces.start[r];
    piece = above ? r : piece;
    start = above ? pieces.start[r] : start;
    step = above ? pieces.step[r] : step;
  }
  return {piece, start, step, core::clamp(core::round_half_even((magnitude - start) / step), F(0), pieces.largest)};
}

/// w_hat. Zero comes out as +0.
template <class F>
QSTEP_HOST_DEVICE F quantize(F w, const Pieces<F>& pieces) {
  const Code<F> code = encode(w, pieces);
  const F magnitude = code.start + code.step * code.magnitude;
  return w < F(0) ? F(0) - magnitude : magnitude;
}

// --- breakpoints from statistics -------------------------------------------------------------------------------------

/// What the weights of a channel are taken for, with variance 1 and mean 0.
enum class Density : uint8_t { gaussian, laplace };

QSTEP_HOST_DEVICE double density(Density of, double x) {
  constexpr double inverse_sqrt_2pi = 0.39894228040143267794;
  constexpr double inverse_sqrt_2 = 0.70710678118654752440;
  return of == Density::gaussian ? inverse_sqrt_2pi * ::exp(-0.5 * x * x) : inverse_sqrt_2 * ::exp(-x / inverse_sqrt_2);
}

/// Probability of a value below x >= 0.
QSTEP_HOST_DEVICE double cumulative(Density of, double x) {
  constexpr double inverse_sqrt_2 = 0.70710678118654752440;
  return of == Density::gaussian ? 0.5 * (1.0 + ::erf(x * inverse_sqrt_2)) : 1.0 - 0.5 * ::exp(-x / inverse_sqrt_2);
}

/// The supplement's fit of the best single breakpoint, for a range [-m, m] in units of the standard deviation.
/// Paper and supplement print p / m on the left of it; it is p itself. Within 0.01 of the optimum for m from 3 to 8.
QSTEP_HOST_DEVICE double one_shot_breakpoint(Density of, double m) {
  return of == Density::gaussian ? ::log(0.86143114 * m + 0.607901097) : 0.80304483 * ::sqrt(m) - 0.316678551;
}

/// A point of [0, m] and the probability below it. All probability beyond m counts as below m, as in eq. 5.
struct Edge {
  double position;
  double below;
};

/// The breakpoint between two neighbours that minimises the expected squared error of the two pieces it separates,
///   (p - a)^2 (F(p) - F(a)) + (b - p)^2 (F(b) - F(p)),
/// by bisection on the derivative. F is concave, so that has one zero at most up to the middle and is positive after
/// it (but for the probability beyond m, against which the middle is the limit: p < m / 2 in the paper).
QSTEP_HOST_DEVICE double best_between(Density of, Edge a, Edge b) {
  double low = a.position;
  double high = 0.5 * (a.position + b.position);
  for (int i = 0; i < 40; ++i) {
    const double p = 0.5 * (low + high);
    const double below = cumulative(of, p);
    const double left = p - a.position;
    const double right = b.position - p;
    const double slope = 2.0 * left * (below - a.below) - 2.0 * right * (b.below - below) +
                         (left * left - right * right) * density(of, p);
    (slope < 0.0 ? low : high) = p;
  }
  return 0.5 * (low + high);
}

/// p_1 .. p_count of least expected squared error on [0, m], m in standard deviations: best_between for one after
/// the other until none moves.
QSTEP_HOST_DEVICE void optimal_breakpoints(Density of, double m, int count, double* breakpoints) {
  for (int l = 0; l < count; ++l) breakpoints[l] = m * (l + 1) / (count + 1);
  double moved = m;
  for (int sweep = 0; sweep < 200 && moved > 1e-9 * m; ++sweep) {
    moved = 0.0;
    for (int l = 0; l < count; ++l) {
      const double before = l > 0 ? breakpoints[l - 1] : 0.0;
      const Edge a{before, cumulative(of, before)};
      const Edge b = l + 1 < count ? Edge{breakpoints[l + 1], cumulative(of, breakpoints[l + 1])} : Edge{m, 1.0};
      const double p = best_between(of, a, b);
      moved = ::fmax(moved, ::fabs(p - breakpoints[l]));
      breakpoints[l] = p;
    }
    if (count == 1) return;
  }
}

inline constexpr double narrowest_piece = 0.02;  ///< of the range
inline constexpr double flattest_range = 1.2;    ///< in standard deviations; below it a single step serves best

/// Magnitudes below this count as zero: no step made of them would be a normal float32.
inline constexpr double smallest_range = 0x1p-100;

/// One density and whether its breakpoint is fitted or optimal. Two and three breakpoints have no fit.
struct Estimate {
  Density density;
  bool one_shot;
};

/// Breakpoints, in units of the weights, of a channel with this largest magnitude and standard deviation. Equal pieces
/// where the range is flat: a standard deviation of 0, max / sd < 1.2. A range of 0 counts as 1.
QSTEP_HOST_DEVICE void estimate_breakpoints(Estimate estimate, double max, double sd, int count, double* breakpoints) {
  const double range = max >= smallest_range ? max : 1.0;
  const double m = range / sd;
  if (!(sd > 0.0 && max >= smallest_range && m >= flattest_range && m < 1e300)) {
    for (int l = 0; l < count; ++l) breakpoints[l] = range * (l + 1) / (count + 1);
    return;
  }
  if (count == 1 && estimate.one_shot) {
    breakpoints[0] = one_shot_breakpoint(estimate.density, m);
  } else {
    optimal_breakpoints(estimate.density, m, count, breakpoints);
  }
  double lowest = narrowest_piece;
  for (int l = 0; l < count; ++l) {
    const double share = core::clamp(breakpoints[l] / m, lowest, (l + 1.0) / (count + 1));
    breakpoints[l] = share * range;
    lowest = share + narrowest_piece;
  }
}

}  // namespace qstep::methods::pwlq
