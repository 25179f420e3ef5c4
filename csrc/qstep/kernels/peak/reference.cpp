#include <numeric>

#include "qstep/kernels/peak/kernels.h"

namespace qstep::kernels {

int32_t peak_reference(int64_t rounds) {
  int32_t sums[peak_sums] = {};
  int32_t weight = -5;
  for (int32_t code = 1; rounds > 0; --rounds, code = (code + 1) & 0xFF) {
    for (int32_t& sum : sums) sum += code * weight;
    weight = -weight;
  }
  return std::accumulate(sums, sums + peak_sums, 0);
}

}  // namespace qstep::kernels
