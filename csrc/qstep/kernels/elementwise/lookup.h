#pragma once
// Any function of one code: output = table[input]. The output may be the input itself; it may not overlap it
// otherwise. Work items are rows: batch * height.
#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "qstep/kernels/isa.h"
#include "qstep/kernels/layout.h"

namespace qstep::kernels {

struct LookupProblem {
  std::array<uint8_t, 256> table{};
  /// 1..256: quant_max of the input + 1. Larger codes do not occur; what they would give is not defined.
  int32_t entries = 256;
};

struct LookupArguments {
  const uint8_t* input = nullptr;
  ImageLayout input_layout;
  uint8_t* output = nullptr;
  ImageLayout output_layout;  ///< same size
};

struct LookupKernel {
  std::string_view name;
  Isa isa;
  bool (*supports)(const LookupProblem&);
  void (*run)(const LookupProblem&, const LookupArguments&, Range items);
};

std::span<const LookupKernel> lookup_kernels();
const LookupKernel& choose_lookup(const LookupProblem& problem, Isa isa = current_isa());

}  // namespace qstep::kernels
