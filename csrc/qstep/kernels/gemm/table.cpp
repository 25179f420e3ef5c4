#include "qstep/kernels/gemm/by_rows.h"
#include "qstep/kernels/gemm/gemm.h"
#include "qstep/kernels/gemm/panel_gemm.h"
#include "qstep/kernels/gemm/reference.h"
#include "qstep/kernels/gemm/x86_avx2.h"
#include "qstep/kernels/gemm/x86_avx2_packed_bits.h"
#include "qstep/kernels/gemm/x86_avx2_shuffle.h"
#include "qstep/kernels/gemm/x86_avx512vnni.h"
#include "qstep/kernels/gemm/x86_avx512vnni_half_products.h"
#include "qstep/kernels/gemm/x86_avx512vnni_packed_bits.h"
#include "qstep/kernels/gemm/x86_avx512vnni_shuffle.h"
#include "qstep/kernels/gemm/x86_avxvnni.h"
#include "qstep/kernels/kernel_table.h"
#include "qstep/kernels/weight_factor.h"

namespace qstep::kernels {
namespace {

bool any(const GemmProblem&) { return true; }
bool shifts(const GemmProblem& problem) { return are_powers_of_two(problem.weights); }

template <class Arithmetic>
constexpr GemmKernel panels(std::string_view name, Isa isa) {
  return {name, isa, Arithmetic::supports, pack_panel_gemm<Arithmetic>, suits_panel_gemm<Arithmetic>};
}

template <class Few, class Many>
constexpr GemmKernel by_rows(std::string_view name, Isa isa) {
  return {name, isa, supports_by_rows<Few, Many>, pack_by_rows<Few, Many>, suits_by_rows<Few, Many>};
}

constexpr GemmKernel table[] = {
#if defined(__x86_64__)
    panels<avx512vnni::Shuffle8>("gemm_avx512vnni_shuffle8", Isa::avx512vnni),
    by_rows<avx512vnni::PackedBitsDpbusd<2>, avx512vnni::Dpbusd>("gemm_avx512vnni_dpbusd_or_2_bits", Isa::avx512vnni),
    by_rows<avx512vnni::PackedBitsDpbusd<4>, avx512vnni::HalfProducts>("gemm_avx512vnni_half_products_or_4_bits",
                                                                       Isa::avx512vnni),
    by_rows<avx512vnni::PackedBitsDpbusd<4>, avx512vnni::Dpbusd>("gemm_avx512vnni_dpbusd_or_4_bits", Isa::avx512vnni),
    panels<avx512vnni::HalfProducts>("gemm_avx512vnni_half_products", Isa::avx512vnni),
    panels<avx512vnni::Dpbusd>("gemm_avx512vnni_dpbusd", Isa::avx512vnni),
    panels<avx512vnni::Dpwssd>("gemm_avx512vnni_dpwssd", Isa::avx512vnni),
    by_rows<avx2::PackedBits16<2>, avx2::Shuffle8>("gemm_avx2_shuffle8_or_2_bits", Isa::avx2),
    panels<avx2::Shuffle8>("gemm_avx2_shuffle8", Isa::avx2),
    by_rows<avx2::PackedBits16<2>, avxvnni::Dpbusd>("gemm_avxvnni_dpbusd_or_2_bits", Isa::avxvnni),
    by_rows<avx2::PackedBits16<4>, avxvnni::Dpbusd>("gemm_avxvnni_dpbusd_or_4_bits", Isa::avxvnni),
    panels<avxvnni::Dpbusd>("gemm_avxvnni_dpbusd", Isa::avxvnni),
    panels<avxvnni::Dpwssd>("gemm_avxvnni_dpwssd", Isa::avxvnni),
    by_rows<avx2::PackedBits16<2>, avx2::Maddubs16>("gemm_avx2_maddubs16_or_2_bits", Isa::avx2),
    by_rows<avx2::PackedBits16<4>, avx2::Maddubs16>("gemm_avx2_maddubs16_or_4_bits", Isa::avx2),
    by_rows<avx2::CentredBytes, avx2::Maddubs16>("gemm_avx2_maddubs16_or_bytes", Isa::avx2),
    by_rows<avx2::CentredBytes, avx2::Madd16>("gemm_avx2_madd16_or_bytes", Isa::avx2),
    panels<avx2::Maddubs16>("gemm_avx2_maddubs16", Isa::avx2),
    panels<avx2::Madd16>("gemm_avx2_madd16", Isa::avx2),
#endif
    {"gemm_reference_shift_add", Isa::reference, shifts, pack_gemm_shift_add},
    {"gemm_reference", Isa::reference, any, pack_gemm_reference},
};

}  // namespace

std::span<const GemmKernel> gemm_kernels() { return table; }

const GemmKernel& choose_gemm(const GemmProblem& problem, Isa isa) {
  return choose_kernel("gemm", gemm_kernels(), problem, isa);
}

}  // namespace qstep::kernels
