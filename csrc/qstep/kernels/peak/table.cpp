#include <algorithm>
#include <chrono>

#include "qstep/core/error.h"
#include "qstep/kernels/peak/kernels.h"
#include "qstep/kernels/peak/peak.h"

namespace qstep::kernels {
namespace {

constexpr PeakKernel table[] = {
#if defined(__x86_64__)
    {"peak_avx512vnni", Isa::avx512vnni, peak_products_avx512vnni, peak_avx512vnni},
    {"peak_avxvnni", Isa::avxvnni, peak_products_avxvnni, peak_avxvnni},
    {"peak_avx2", Isa::avx2, peak_products_avx2, peak_avx2},
#endif
    {"peak_reference", Isa::reference, peak_products_reference, peak_reference},
};

}  // namespace

std::span<const PeakKernel> peak_kernels() { return table; }

double measure_peak(Isa isa) {
  using Clock = std::chrono::steady_clock;
  constexpr int runs = 10;
  constexpr int64_t rounds = 20'000;
  const auto* kernel = std::ranges::find(table, isa, &PeakKernel::isa);
  require(kernel != std::end(table) && is_supported(isa), "measure_peak: ISA {} is not available", isa_name(isa));
  double best = 0;
  for (int run = 0; run < runs; ++run) {
    const auto start = Clock::now();
    kernel->run(rounds);
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::max(best, static_cast<double>(rounds * kernel->products) / seconds);
  }
  return best;
}

}  // namespace qstep::kernels
