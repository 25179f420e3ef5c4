#pragma once
#include <memory>

#include "qstep/kernels/gemm/gemm.h"

namespace qstep::kernels {

/// Three loops, as the formula stands.
std::unique_ptr<PackedGemm> pack_gemm_reference(const GemmProblem& problem);
/// The same with shifts instead of products, for weights that are powers of two.
std::unique_ptr<PackedGemm> pack_gemm_shift_add(const GemmProblem& problem);

}  // namespace qstep::kernels
