#pragma once
// One table of kernels per operation drives dispatch, tests and benchmarks.
//
// A kernel is a row {name, isa, supports, ...}; rows are ordered by preference, the reference last. For an instruction
// set the first row that supports the problem wins; rows of lesser instruction sets may serve a greater one, but the
// reference serves nobody else: a missing kernel is an error, never a silent slow path. A row that has `suits_cpu` is
// right on every CPU of its instruction set and chosen on those where that says true.
#include <span>
#include <string>
#include <string_view>

#include "qstep/core/error.h"
#include "qstep/kernels/isa.h"

namespace qstep::kernels {

inline bool may_serve(Isa kernel, Isa requested) {
  return kernel == requested || (kernel != Isa::reference && kernel < requested);
}

template <class Kernel>
bool suits_cpu(const Kernel& kernel) {
  if constexpr (requires { kernel.suits_cpu; }) return kernel.suits_cpu == nullptr || kernel.suits_cpu();
  return true;
}

template <class Kernel, class Problem>
const Kernel& choose_kernel(std::string_view operation, std::span<const Kernel> table, const Problem& problem,
                            Isa isa) {
  for (const Kernel& kernel : table) {
    if (!may_serve(kernel.isa, isa) || !is_supported(kernel.isa) || !suits_cpu(kernel)) continue;
    if (kernel.supports(problem)) return kernel;
  }
  std::string built;
  for (const Kernel& kernel : table) built += fmt::format("{}{}", built.empty() ? "" : ", ", kernel.name);
  fail("{}: no kernel for ISA {} takes this problem; built are {}", operation, isa_name(isa), built);
}

}  // namespace qstep::kernels
