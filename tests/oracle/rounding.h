#pragma once
// Rounding by its definition, in __int128: of the integers around a quotient take the nearest, and of two nearest the
// one that the rule names. Shares nothing with core/rounding.h.
#include <cstdint>
#include <utility>

namespace qstep::oracle {

using Wide = __int128;

inline Wide magnitude(Wide x) { return x < 0 ? -x : x; }

/// The integer nearest to numerator / denominator (denominator > 0); `prefers(a, b)` says whether a beats b in a tie.
template <class Prefers>
Wide nearest(Wide numerator, Wide denominator, Prefers prefers) {
  const Wide truncated = numerator / denominator;
  Wide best = truncated;
  for (const Wide candidate : {truncated - 1, truncated + 1}) {
    const Wide distance = magnitude(numerator - candidate * denominator);
    const Wide best_distance = magnitude(numerator - best * denominator);
    if (distance < best_distance || (distance == best_distance && prefers(candidate, best))) best = candidate;
  }
  return best;
}

inline Wide nearest_even(Wide numerator, Wide denominator) {
  return nearest(numerator, denominator, [](Wide a, Wide) { return a % 2 == 0; });
}

inline Wide nearest_away_from_zero(Wide numerator, Wide denominator) {
  return nearest(numerator, denominator, [](Wide a, Wide b) { return magnitude(a) > magnitude(b); });
}

inline Wide nearest_up(Wide numerator, Wide denominator) {
  return nearest(numerator, denominator, [](Wide a, Wide b) { return a > b; });
}

inline Wide power_of_two(int exponent) { return Wide{1} << exponent; }

}  // namespace qstep::oracle
