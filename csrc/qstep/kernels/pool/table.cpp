#include "qstep/kernels/kernel_table.h"
#include "qstep/kernels/pool/kernels.h"
#include "qstep/kernels/pool/pool.h"

namespace qstep::kernels {
namespace {

bool any_max(const MaxPool2dProblem&) { return true; }
bool any_average(const AvgPool2dProblem&) { return true; }

constexpr MaxPool2dKernel max_table[] = {
#if defined(__x86_64__)
    {"max_pool2d_avx2", Isa::avx2, any_max, max_pool2d_avx2},
#endif
    {"max_pool2d_reference", Isa::reference, any_max, max_pool2d_reference},
};

constexpr AvgPool2dKernel average_table[] = {
#if defined(__x86_64__)
    {"avg_pool2d_shift_avx2", Isa::avx2, is_shift, avg_pool2d_shift_avx2},
    {"avg_pool2d_avx2", Isa::avx2, any_average, avg_pool2d_avx2},
#endif
    {"avg_pool2d_shift_reference", Isa::reference, is_shift, avg_pool2d_shift_reference},
    {"avg_pool2d_reference", Isa::reference, any_average, avg_pool2d_reference},
};

}  // namespace

std::span<const MaxPool2dKernel> max_pool2d_kernels() { return max_table; }
std::span<const AvgPool2dKernel> avg_pool2d_kernels() { return average_table; }

const MaxPool2dKernel& choose_max_pool2d(const MaxPool2dProblem& problem, Isa isa) {
  return choose_kernel("max_pool2d", max_pool2d_kernels(), problem, isa);
}

const AvgPool2dKernel& choose_avg_pool2d(const AvgPool2dProblem& problem, Isa isa) {
  return choose_kernel("avg_pool2d", avg_pool2d_kernels(), problem, isa);
}

}  // namespace qstep::kernels
