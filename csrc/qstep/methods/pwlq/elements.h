#pragma once
// Piecewise linear quantization on one element of memory: what the loops of the CPU (loops.h) and of CUDA
// (cuda_loops.cuh) run. T is float, double, BFloat16 or Float16; the arithmetic runs in Compute<T>.
#include <cstdint>
#include <limits>

#include "qstep/methods/half_types.h"
#include "qstep/methods/pwlq/math.h"
#include "qstep/methods/tiling.h"

namespace qstep::methods::pwlq {

/// Raw pointers into dense memory, host's or device's.
template <class T>
struct Operands {
  const T* w;               ///< every element of the layout
  const Compute<T>* start;  ///< [channels, pieces]
  const Compute<T>* step;   ///< [channels, pieces], > 0
  int32_t pieces;           ///< 2 to max_pieces
  int32_t largest;          ///< magnitude inside a piece

  QSTEP_HOST_DEVICE Pieces<Compute<T>> grid(int64_t channel) const {
    using F = Compute<T>;
    Pieces<F> result;
    for (int r = 0; r < max_pieces; ++r) {
      const bool used = r < pieces;
      result.start[r] = used ? start[channel * pieces + r] : std::numeric_limits<F>::infinity();
      result.step[r] = used ? step[channel * pieces + r] : F(1);
    }
    result.largest = static_cast<F>(largest);
    return result;
  }
};

template <class T>
struct Quantize {
  Operands<T> operands;
  T* output;

  QSTEP_HOST_DEVICE Pieces<Compute<T>> grid(int64_t channel) const { return operands.grid(channel); }
  QSTEP_HOST_DEVICE void apply(int64_t i, const Pieces<Compute<T>>& pieces) const {
    store(quantize(load(operands.w[i]), pieces), output[i]);
  }
};

/// The codes themselves. A zero of the first piece is not negative.
template <class T>
struct Encode {
  Operands<T> operands;
  uint8_t* region;
  uint8_t* magnitude;
  bool* negative;

  QSTEP_HOST_DEVICE Pieces<Compute<T>> grid(int64_t channel) const { return operands.grid(channel); }
  QSTEP_HOST_DEVICE void apply(int64_t i, const Pieces<Compute<T>>& pieces) const {
    const auto w = load(operands.w[i]);
    const auto code = encode(w, pieces);
    region[i] = static_cast<uint8_t>(code.piece);
    magnitude[i] = static_cast<uint8_t>(code.magnitude);
    negative[i] = w < 0 && (code.piece > 0 || code.magnitude > 0);
  }
};

/// Breakpoints of one channel from its largest magnitude and its standard deviation.
struct FromStatistics {
  const double* max;
  const double* sd;
  Estimate estimate;
  int32_t count;
  double* breakpoints;  ///< [channels, count]

  struct Statistics {
    double max;
    double sd;
  };
  QSTEP_HOST_DEVICE Statistics grid(int64_t channel) const { return {max[channel], sd[channel]}; }
  QSTEP_HOST_DEVICE void apply(int64_t channel, Statistics of) const {
    estimate_breakpoints(estimate, of.max, of.sd, count, breakpoints + channel * count);
  }
};

}  // namespace qstep::methods::pwlq
