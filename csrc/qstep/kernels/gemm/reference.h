#pragma once
#include <memory>

#include "qstep/kernels/gemm/gemm.h"

namespace qstep::kernels {

/// Three loops, as the formula stands.
std::unique_ptr<PackedGemm> pack_gemm_reference(const GemmProblem& problem);

}  // namespace qstep::kernels
