#pragma once
// Piecewise linear quantization on the CPU: raw pointers into dense memory, no torch. Tiles and threads as in
// lsq_plus/cpu.h.
#include <cstdint>

#include "qstep/methods/pwlq/elements.h"

namespace qstep::methods::pwlq {

/// w_hat, laid out as w.
template <class T>
void quantize(const Operands<T>& operands, T* output, const Tiling& tiling, int64_t first, int64_t last);

/// Codes, laid out as w.
void encode(const Encode<float>& element, const Tiling& tiling, int64_t first, int64_t last);

}  // namespace qstep::methods::pwlq
