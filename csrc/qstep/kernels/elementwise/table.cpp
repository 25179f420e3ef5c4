#include "qstep/kernels/elementwise/floor_sum.h"
#include "qstep/kernels/elementwise/kernels.h"
#include "qstep/kernels/elementwise/split_sum.h"
#include "qstep/kernels/kernel_table.h"

namespace qstep::kernels {
namespace {

template <class Problem>
bool any(Problem) {
  return true;
}

constexpr BilinearKernel bilinear_table[] = {
#if defined(__x86_64__)
    {"bilinear_shift_avx2", Isa::avx2, is_shift, bilinear_shift_avx2},
    {"bilinear_narrow_avx512vnni", Isa::avx512vnni, NarrowSum::supports, bilinear_narrow_avx512},
    {"bilinear_narrow_avx2", Isa::avx2, NarrowSum::supports, bilinear_narrow_avx2},
    {"bilinear_floor_avx512vnni", Isa::avx512vnni, FloorSum::supports, bilinear_floor_avx512},
    {"bilinear_floor_avx2", Isa::avx2, FloorSum::supports, bilinear_floor_avx2},
    {"bilinear_sum_avx512vnni", Isa::avx512vnni, SplitSum::supports, bilinear_sum_avx512},
    {"bilinear_sum_avx2", Isa::avx2, SplitSum::supports, bilinear_sum_avx2},
    {"bilinear_avx2", Isa::avx2, any<const BilinearProblem&>, bilinear_avx2},
#endif
    {"bilinear_shift_reference", Isa::reference, is_shift, bilinear_shift_reference},
    {"bilinear_reference", Isa::reference, any<const BilinearProblem&>, bilinear_reference},
};

constexpr LookupKernel lookup_table[] = {
#if defined(__x86_64__)
    {"lookup_avx2", Isa::avx2, any<const LookupProblem&>, lookup_avx2},
#endif
    {"lookup_reference", Isa::reference, any<const LookupProblem&>, lookup_reference},
};

constexpr QuantizeKernel quantize_table[] = {
#if defined(__x86_64__)
    {"quantize_avx2", Isa::avx2, any<const core::Grid&>, quantize_avx2},
#endif
    {"quantize_reference", Isa::reference, any<const core::Grid&>, quantize_reference},
};

constexpr DequantizeKernel dequantize_table[] = {
#if defined(__x86_64__)
    {"dequantize_avx2", Isa::avx2, any<const core::Grid&>, dequantize_avx2},
#endif
    {"dequantize_reference", Isa::reference, any<const core::Grid&>, dequantize_reference},
};

constexpr DequantizeAccumulatorsKernel dequantize_accumulators_table[] = {
#if defined(__x86_64__)
    {"dequantize_accumulators_avx2", Isa::avx2, any<double>, dequantize_accumulators_avx2},
#endif
    {"dequantize_accumulators_reference", Isa::reference, any<double>, dequantize_accumulators_reference},
};

}  // namespace

std::span<const BilinearKernel> bilinear_kernels() { return bilinear_table; }
std::span<const LookupKernel> lookup_kernels() { return lookup_table; }
std::span<const QuantizeKernel> quantize_kernels() { return quantize_table; }
std::span<const DequantizeKernel> dequantize_kernels() { return dequantize_table; }
std::span<const DequantizeAccumulatorsKernel> dequantize_accumulators_kernels() {
  return dequantize_accumulators_table;
}

const BilinearKernel& choose_bilinear(const BilinearProblem& problem, Isa isa) {
  return choose_kernel("bilinear", bilinear_kernels(), problem, isa);
}

const LookupKernel& choose_lookup(const LookupProblem& problem, Isa isa) {
  return choose_kernel("lookup", lookup_kernels(), problem, isa);
}

const QuantizeKernel& choose_quantize(const core::Grid& grid, Isa isa) {
  return choose_kernel("quantize", quantize_kernels(), grid, isa);
}

const DequantizeKernel& choose_dequantize(const core::Grid& grid, Isa isa) {
  return choose_kernel("dequantize", dequantize_kernels(), grid, isa);
}

const DequantizeAccumulatorsKernel& choose_dequantize_accumulators(double scale, Isa isa) {
  return choose_kernel("dequantize_accumulators", dequantize_accumulators_kernels(), scale, isa);
}

}  // namespace qstep::kernels
