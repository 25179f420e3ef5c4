#pragma once
// One table of kernels per operation drives dispatch, tests and benchmarks.
//
// A kernel is a row {name, isa, supports, ...}; rows are ordered by preference, the reference last. `supports` says for
// which problems it is right, and `suits`, where a row has that, for which of these it is the one to take on this CPU: the
// rest are faster with a row below. For an instruction set the first row that supports and suits the problem wins; rows of
// lesser instruction sets may serve a greater one, but the reference serves nobody else: a missing kernel is an error,
// never a silent slow path. Tests run every row on all that it supports.
#include <span>
#include <string>
#include <string_view>

#include "qstep/core/error.h"
#include "qstep/kernels/isa.h"

namespace qstep::kernels {

inline bool may_serve(Isa kernel, Isa requested) {
  return kernel == requested || (kernel != Isa::reference && kernel < requested);
}

template <class Kernel, class Problem>
bool suits(const Kernel& kernel, const Problem& problem) {
  if constexpr (requires { kernel.suits; }) return kernel.suits == nullptr || kernel.suits(problem);
  return true;
}

template <class Kernel, class Problem>
const Kernel& choose_kernel(std::string_view operation, std::span<const Kernel> table, const Problem& problem,
                            Isa isa) {
  for (const Kernel& kernel : table) {
    if (!may_serve(kernel.isa, isa) || !is_supported(kernel.isa)) continue;
    if (kernel.supports(problem) && suits(kernel, problem)) return kernel;
  }
  std::string built;
  for (const Kernel& kernel : table) built += fmt::format("{}{}", built.empty() ? "" : ", ", kernel.name);
  fail("{}: no kernel for ISA {} takes this problem; built are {}", operation, isa_name(isa), built);
}

}  // namespace qstep::kernels
