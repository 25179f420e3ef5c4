#include "qstep/kernels/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <atomic>
#include <cstdlib>

#include "qstep/core/error.h"

namespace qstep::kernels {
namespace {

constexpr Isa built[] = {
    Isa::reference,
#if defined(__x86_64__)
    Isa::avx2,
    Isa::avxvnni,
    Isa::avx512vnni,
#endif
};

#if defined(__x86_64__)
/// CPUID leaf 7, 1: not every compiler knows its name. The operating system's part is that of AVX2.
bool has_avxvnni() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & (1U << 4)) != 0;
}
#endif

bool is_amd() {
#if defined(__x86_64__)
  return __builtin_cpu_is("amd") != 0;
#else
  return false;
#endif
}

Isa default_isa() {
  if (const char* name = std::getenv("QSTEP_ISA"); name != nullptr && *name != '\0') return isa_from_name(name);
  Isa best = Isa::reference;
  for (const Isa isa : built) {
    if (is_supported(isa)) best = isa;
  }
  return best;
}

std::atomic<Isa>& in_use() {
  static std::atomic<Isa> isa{default_isa()};
  return isa;
}

}  // namespace

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::reference:
      return "reference";
    case Isa::avx2:
      return "avx2";
    case Isa::avxvnni:
      return "avxvnni";
    case Isa::avx512vnni:
      return "avx512vnni";
  }
  return "unknown";
}

std::span<const Isa> built_isas() { return built; }

bool is_supported(Isa isa) {
#if defined(__x86_64__)
  // CPUID, and XGETBV for the operating system's part.
  switch (isa) {
    case Isa::reference:
      return true;
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
    case Isa::avxvnni:
      return is_supported(Isa::avx2) && has_avxvnni();
    case Isa::avx512vnni:
      return is_supported(Isa::avx2) && __builtin_cpu_supports("avx512f") != 0 &&
             __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512dq") != 0 &&
             __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512vnni") != 0;
  }
  return false;
#else
  return isa == Isa::reference;
#endif
}

bool adds_beside_products() { return is_amd(); }

bool looks_up_as_often_as_multiplies() { return is_amd(); }

Isa isa_from_name(std::string_view name) {
  std::string built_names;
  std::string cpu_names;
  for (const Isa isa : built) {
    if (isa_name(isa) == name && is_supported(isa)) return isa;
    built_names += fmt::format("{}{}", built_names.empty() ? "" : ", ", isa_name(isa));
    if (is_supported(isa)) cpu_names += fmt::format("{}{}", cpu_names.empty() ? "" : ", ", isa_name(isa));
  }
  fail("isa: '{}' is not available; built are: {}; of these the CPU runs: {}", name, built_names, cpu_names);
}

Isa current_isa() { return in_use().load(std::memory_order_relaxed); }

void set_isa(std::string_view name) { in_use().store(isa_from_name(name), std::memory_order_relaxed); }

}  // namespace qstep::kernels
