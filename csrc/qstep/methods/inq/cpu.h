#pragma once
// INQ's quantization on the CPU: raw pointers into dense memory, no torch. Tiles and threads as in lsq_plus/cpu.h.
#include <cstdint>

#include "qstep/methods/inq/elements.h"
#include "qstep/methods/tiling.h"

namespace qstep::methods::inq {

/// w_hat, laid out as w.
template <class T>
void forward(const Forward<T>& element, const Tiling& tiling, int64_t first, int64_t last);

}  // namespace qstep::methods::inq
