#include "qstep/kernels/conv2d/conv2d.h"
#include "qstep/kernels/conv2d/pair_tables_conv2d.h"
#include "qstep/kernels/conv2d/panel_conv2d.h"
#include "qstep/kernels/conv2d/reference.h"
#include "qstep/kernels/depthwise/band_depthwise.h"
#include "qstep/kernels/depthwise/x86_avx2.h"
#include "qstep/kernels/depthwise/x86_avx2_3x3.h"
#include "qstep/kernels/depthwise/x86_avx512.h"
#include "qstep/kernels/depthwise/x86_avx512_3x3.h"
#include "qstep/kernels/gemm/x86_avx2.h"
#include "qstep/kernels/gemm/x86_avx2_shuffle.h"
#include "qstep/kernels/gemm/x86_avx2_strassen.h"
#include "qstep/kernels/gemm/x86_avx512vnni.h"
#include "qstep/kernels/gemm/x86_avx512vnni_half_products.h"
#include "qstep/kernels/gemm/x86_avx512vnni_shuffle.h"
#include "qstep/kernels/gemm/x86_avxvnni.h"
#include "qstep/kernels/kernel_table.h"
#include "qstep/kernels/weight_factor.h"
#include "qstep/kernels/winograd/winograd_conv2d.h"
#include "qstep/kernels/winograd/x86_avx2.h"
#include "qstep/kernels/winograd/x86_avx512vnni.h"
#include "qstep/kernels/winograd_rows/rows_conv2d.h"
#include "qstep/kernels/winograd_rows/x86_avx2.h"

namespace qstep::kernels {
namespace {

bool any(const Conv2dProblem&) { return true; }
bool shifts(const Conv2dProblem& problem) { return are_powers_of_two(problem.weights); }

// Products by table, with the cost of Winograd's kernel for the same weights as measured on 3x3 layers with 64 to 512
// channels. On AVX-512 that is 0.62 where a layer has even sides, and more than the direct kernel's on 7 x 7 pixels.
bool suits_shuffle_avx512vnni(const Conv2dProblem& problem) {
  return looks_up_as_often_as_multiplies() &&
         suits_pair_tables_conv2d<avx512vnni::Shuffle8, winograd::takes_winograd_conv2d<winograd::avx512vnni::Dpbusd>>(
             problem, 0.7);
}
bool suits_shuffle_avx2(const Conv2dProblem& problem) {
  return suits_pair_tables_conv2d<avx2::Shuffle8, winograd::takes_winograd_conv2d<winograd::avx2::Maddubs16>>(problem,
                                                                                                              0.62);
}

bool suits_half_products(const Conv2dProblem& problem) {
  return problem.groups == 1 && suits_panel_conv2d<avx512vnni::HalfProducts>(problem);
}

template <class Arithmetic>
constexpr Conv2dKernel panels(std::string_view name, Isa isa,
                              bool (*suits)(const Conv2dProblem&) = suits_panel_conv2d<Arithmetic>) {
  return {name, isa, supports_panel_conv2d<Arithmetic>, pack_panel_conv2d<Arithmetic>, suits};
}

template <class Arithmetic>
constexpr Conv2dKernel pair_tables(std::string_view name, Isa isa, bool (*suits)(const Conv2dProblem&)) {
  return {name, isa, supports_pair_tables_conv2d<Arithmetic>, pack_pair_tables_conv2d<Arithmetic>, suits};
}

template <class Arithmetic>
constexpr Conv2dKernel winograd_3x3(std::string_view name, Isa isa) {
  return {name, isa, winograd::supports_winograd_conv2d<Arithmetic>, winograd::pack_winograd_conv2d<Arithmetic>,
          winograd::suits_winograd_conv2d<Arithmetic>};
}

template <class Arithmetic>
constexpr Conv2dKernel depthwise(std::string_view name, Isa isa) {
  return {name, isa, supports_band_depthwise<Arithmetic>, pack_band_depthwise<Arithmetic>};
}

constexpr Conv2dKernel table[] = {
#if defined(__x86_64__)
    {"depthwise_avx512vnni_3x3", Isa::avx512vnni, avx512vnni::supports_depthwise_3x3, avx512vnni::pack_depthwise_3x3},
    depthwise<avx512vnni::DepthwiseDot8>("depthwise_avx512vnni", Isa::avx512vnni),
    {"depthwise_avx2_3x3", Isa::avx2, avx2::supports_depthwise_3x3, avx2::pack_depthwise_3x3},
    depthwise<avx2::DepthwiseMaddubs16>("depthwise_avx2_maddubs16", Isa::avx2),
    depthwise<avx2::DepthwiseMadd16>("depthwise_avx2_madd16", Isa::avx2),
    pair_tables<avx512vnni::Shuffle8>("conv2d_avx512vnni_shuffle8", Isa::avx512vnni, suits_shuffle_avx512vnni),
    winograd_3x3<winograd::avx512vnni::Dpbusd>("winograd_avx512vnni_dpbusd", Isa::avx512vnni),
    {"conv2d_avx512vnni_half_products", Isa::avx512vnni, supports_codes_only<avx512vnni::HalfProducts>,
     pack_codes_only<avx512vnni::HalfProducts>, suits_half_products},
    panels<avx512vnni::Dpbusd>("conv2d_avx512vnni_dpbusd", Isa::avx512vnni),
    panels<avx512vnni::Dpwssd>("conv2d_avx512vnni_dpwssd", Isa::avx512vnni),
    pair_tables<avx2::Shuffle8>("conv2d_avx2_shuffle8", Isa::avx2, suits_shuffle_avx2),
    winograd_3x3<winograd::avxvnni::Dpbusd>("winograd_avxvnni_dpbusd", Isa::avxvnni),
    panels<avxvnni::Dpbusd>("conv2d_avxvnni_dpbusd", Isa::avxvnni),
    panels<avxvnni::Dpwssd>("conv2d_avxvnni_dpwssd", Isa::avxvnni),
    winograd_3x3<winograd::avx2::Maddubs16>("winograd_avx2_maddubs16", Isa::avx2),
    winograd_3x3<winograd::avx2::Madd16<winograd::Stride1>>("winograd_avx2_madd16", Isa::avx2),
    winograd_3x3<winograd::avx2::Madd16<winograd::Stride2>>("winograd_stride_2_avx2_madd16", Isa::avx2),
    {"winograd_rows_avx2_madd16", Isa::avx2, winograd_rows::supports,
     winograd_rows::pack_rows_conv2d<winograd_rows::avx2::Madd16>, winograd_rows::suits},
    panels<avx2::Maddubs16ByStep>("stem_avx2_maddubs16", Isa::avx2, suits_stem<avx2::Maddubs16ByStep>),
    {"conv2d_avx2_strassen16", Isa::avx2, supports_pixels<avx2::Strassen16>, pack_panel_conv2d<avx2::Strassen16>,
     suits_panel_conv2d<avx2::Strassen16>},
    panels<avx2::Maddubs16>("conv2d_avx2_maddubs16", Isa::avx2),
    panels<avx2::Madd16>("conv2d_avx2_madd16", Isa::avx2),
#endif
    {"conv2d_reference_shift_add", Isa::reference, shifts, pack_conv2d_shift_add},
    {"conv2d_reference", Isa::reference, any, pack_conv2d_reference},
};

}  // namespace

std::span<const Conv2dKernel> conv2d_kernels() { return table; }

const Conv2dKernel& choose_conv2d(const Conv2dProblem& problem, Isa isa) {
  return choose_kernel("conv2d", conv2d_kernels(), problem, isa);
}

}  // namespace qstep::kernels
