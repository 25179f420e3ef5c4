#pragma once
// How many products of 8-bit codes and weights one thread computes at most: a loop over registers alone, with nothing
// but the instructions that a direct kernel of the instruction set cannot do without, in enough independent sums to hide
// their latency. Kernels that need fewer of them (sums in int16 over long windows, Winograd's transform) may exceed it.
#include <cstdint>
#include <span>
#include <string_view>

#include "qstep/kernels/isa.h"

namespace qstep::kernels {

/// A row for each instruction set.
struct PeakKernel {
  std::string_view name;
  Isa isa;
  int64_t products;                ///< of one round
  int32_t (*run)(int64_t rounds);  ///< what it returns depends on every sum and means nothing
};

std::span<const PeakKernel> peak_kernels();

/// Products per second of one thread: the best of a few runs, which take some milliseconds.
double measure_peak(Isa isa = current_isa());

}  // namespace qstep::kernels
