#include "qstep/kernels/isa.h"

#include <atomic>
#include <cstdlib>

#include "qstep/core/error.h"

namespace qstep::kernels {
namespace {

constexpr Isa built[] = {
    Isa::reference,
#if defined(__x86_64__)
    Isa::avx2,
#endif
};

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
  }
  return "unknown";
}

std::span<const Isa> built_isas() { return built; }

bool is_supported(Isa isa) {
  switch (isa) {
    case Isa::reference:
      return true;
    case Isa::avx2:
#if defined(__x86_64__)
      return __builtin_cpu_supports("avx2") != 0;  // CPUID, and XGETBV for the operating system's part
#else
      return false;
#endif
  }
  return false;
}

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
