#pragma once
// Instruction sets: what was built, what this CPU has, and which one is in use.
//
// Every kernel of every instruction set gives the same bits; `reference` is the definition, the others are faster.
// To add one: an enumerator here (ordered by capability), a line in isa.cpp, and lines in the kernel tables.
#include <cstdint>
#include <span>
#include <string_view>

namespace qstep::kernels {

enum class Isa : uint8_t {
  reference,   ///< portable scalar code, one naive algorithm per operation
  avx2,        ///< AVX2 and FMA
  avxvnni,     ///< AVX2 and AVX-VNNI: vpdpbusd on 256 bits
  avx512vnni,  ///< AVX-512 F, BW, DQ, VL and VNNI: vpdpbusd on 512 bits
};

std::string_view isa_name(Isa isa);

/// The instruction sets built into this library, in ascending order of capability.
std::span<const Isa> built_isas();

/// True where this CPU (and its operating system) runs `isa`.
bool is_supported(Isa isa);

/// True where vectors of integers are added beside products: with units of their own, as AMD's CPUs have, not on the ports
/// that multiply.
bool adds_beside_products();

/// True where tables are looked up (vpshufb) in as many vectors of 512 bits in a cycle as products are made: AMD's CPUs.
/// Intel's have one unit that does and two that multiply.
bool looks_up_as_often_as_multiplies();

/// The instruction set called `name`. Throws Error, listing what was built and what the CPU has, where it is not one
/// of both.
Isa isa_from_name(std::string_view name);

/// In use by default: the environment variable QSTEP_ISA where it is set, else the best supported one.
Isa current_isa();

/// Changes the default for the whole process. Throws as isa_from_name.
void set_isa(std::string_view name);

}  // namespace qstep::kernels
