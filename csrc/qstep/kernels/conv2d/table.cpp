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
bool shuffles_avx512vnni(const Conv2dProblem& problem) {
  return supports_pair_tables_conv2d<avx512vnni::Shuffle8,
                                     winograd::supports_winograd_conv2d<winograd::avx512vnni::Dpbusd>>(problem, 0.7);
}
bool shuffles_avx2(const Conv2dProblem& problem) {
  return supports_pair_tables_conv2d<avx2::Shuffle8, winograd::supports_winograd_conv2d<winograd::avx2::Maddubs16>>(
      problem, 0.62);
}

bool halves_products(const Conv2dProblem& problem) {
  return problem.groups == 1 && supports_panel_conv2d<avx512vnni::HalfProducts>(problem);
}

constexpr Conv2dKernel table[] = {
#if defined(__x86_64__)
    {"depthwise_avx512vnni_3x3", Isa::avx512vnni, avx512vnni::supports_depthwise_3x3, avx512vnni::pack_depthwise_3x3},
    {"depthwise_avx512vnni", Isa::avx512vnni, supports_band_depthwise<avx512vnni::DepthwiseDot8>,
     pack_band_depthwise<avx512vnni::DepthwiseDot8>},
    {"depthwise_avx2_3x3", Isa::avx2, avx2::supports_depthwise_3x3, avx2::pack_depthwise_3x3},
    {"depthwise_avx2_maddubs16", Isa::avx2, supports_band_depthwise<avx2::DepthwiseMaddubs16>,
     pack_band_depthwise<avx2::DepthwiseMaddubs16>},
    {"depthwise_avx2_madd16", Isa::avx2, supports_band_depthwise<avx2::DepthwiseMadd16>,
     pack_band_depthwise<avx2::DepthwiseMadd16>},
    {"conv2d_avx512vnni_shuffle8", Isa::avx512vnni, shuffles_avx512vnni, pack_pair_tables_conv2d<avx512vnni::Shuffle8>,
     looks_up_as_often_as_multiplies},
    {"winograd_avx512vnni_dpbusd", Isa::avx512vnni, winograd::supports_winograd_conv2d<winograd::avx512vnni::Dpbusd>,
     winograd::pack_winograd_conv2d<winograd::avx512vnni::Dpbusd>},
    {"conv2d_avx512vnni_half_products", Isa::avx512vnni, halves_products, pack_panel_conv2d<avx512vnni::HalfProducts>,
     adds_beside_products},
    {"conv2d_avx512vnni_dpbusd", Isa::avx512vnni, supports_panel_conv2d<avx512vnni::Dpbusd>,
     pack_panel_conv2d<avx512vnni::Dpbusd>},
    {"conv2d_avx512vnni_dpwssd", Isa::avx512vnni, supports_panel_conv2d<avx512vnni::Dpwssd>,
     pack_panel_conv2d<avx512vnni::Dpwssd>},
    {"conv2d_avx2_shuffle8", Isa::avx2, shuffles_avx2, pack_pair_tables_conv2d<avx2::Shuffle8>},
    {"winograd_avxvnni_dpbusd", Isa::avxvnni, winograd::supports_winograd_conv2d<winograd::avxvnni::Dpbusd>,
     winograd::pack_winograd_conv2d<winograd::avxvnni::Dpbusd>},
    {"conv2d_avxvnni_dpbusd", Isa::avxvnni, supports_panel_conv2d<avxvnni::Dpbusd>, pack_panel_conv2d<avxvnni::Dpbusd>},
    {"conv2d_avxvnni_dpwssd", Isa::avxvnni, supports_panel_conv2d<avxvnni::Dpwssd>, pack_panel_conv2d<avxvnni::Dpwssd>},
    {"winograd_avx2_maddubs16", Isa::avx2, winograd::supports_winograd_conv2d<winograd::avx2::Maddubs16>,
     winograd::pack_winograd_conv2d<winograd::avx2::Maddubs16>},
    {"winograd_avx2_madd16", Isa::avx2, winograd::supports_winograd_conv2d<winograd::avx2::Madd16<winograd::Stride1>>,
     winograd::pack_winograd_conv2d<winograd::avx2::Madd16<winograd::Stride1>>},
    {"winograd_stride_2_avx2_madd16", Isa::avx2,
     winograd::supports_winograd_conv2d<winograd::avx2::Madd16<winograd::Stride2>>,
     winograd::pack_winograd_conv2d<winograd::avx2::Madd16<winograd::Stride2>>},
    {"winograd_rows_avx2_madd16", Isa::avx2, winograd_rows::is_suitable,
     winograd_rows::pack_rows_conv2d<winograd_rows::avx2::Madd16>},
    {"stem_avx2_maddubs16", Isa::avx2, supports_stem<avx2::Maddubs16ByStep>, pack_panel_conv2d<avx2::Maddubs16ByStep>},
    {"conv2d_avx2_strassen16", Isa::avx2, supports_pixels<avx2::Strassen16>, pack_panel_conv2d<avx2::Strassen16>},
    {"conv2d_avx2_maddubs16", Isa::avx2, supports_panel_conv2d<avx2::Maddubs16>, pack_panel_conv2d<avx2::Maddubs16>},
    {"conv2d_avx2_madd16", Isa::avx2, supports_panel_conv2d<avx2::Madd16>, pack_panel_conv2d<avx2::Madd16>},
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
