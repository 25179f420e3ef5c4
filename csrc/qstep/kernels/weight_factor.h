#pragma once
// What kernels ask of weights, and how the reference kernels apply one to one centred code.
#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <span>

namespace qstep::kernels {

/// Any weight: a product.
struct Multiplied {
  int16_t weight;

  explicit Multiplied(int16_t w) : weight(w) {}
  int32_t operator()(int32_t code) const { return code * weight; }
};

/// A weight of 0 or +-2^j: a shift and an addition, no multiplication (INQ).
struct Shifted {
  static constexpr int8_t zero = -1;
  int8_t shift;
  bool negative;

  explicit Shifted(int16_t w)
      : shift(w == 0 ? zero : static_cast<int8_t>(std::countr_zero(static_cast<uint32_t>(std::abs(w))))),
        negative(w < 0) {}
  int32_t operator()(int32_t code) const {
    if (shift == zero) return 0;
    const int32_t shifted = code << shift;
    return negative ? -shifted : shifted;
  }
};

/// True where a T holds every weight.
template <class T>
bool fit(std::span<const int16_t> weights) {
  return std::ranges::all_of(weights, [](int16_t w) { return w == static_cast<T>(w); });
}

/// True where Shifted can stand for every weight.
inline bool are_powers_of_two(std::span<const int16_t> weights) {
  for (const int16_t w : weights) {
    if (w != 0 && !std::has_single_bit(static_cast<uint32_t>(std::abs(w)))) return false;
  }
  return true;
}

}  // namespace qstep::kernels
