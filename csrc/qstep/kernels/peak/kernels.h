#pragma once
// The rows of the table, and the products of a round of each.
#include <cstdint>

namespace qstep::kernels {

inline constexpr int peak_sums = 12;  ///< independent ones: two instructions per cycle times a latency of up to six

inline constexpr int64_t peak_products_reference = peak_sums;
inline constexpr int64_t peak_products_avx2 = int64_t{32} * peak_sums;
inline constexpr int64_t peak_products_avxvnni = int64_t{32} * peak_sums;
inline constexpr int64_t peak_products_avx512vnni = int64_t{64} * peak_sums;

int32_t peak_reference(int64_t rounds);
int32_t peak_avx2(int64_t rounds);        // vpmaddubsw, vpmaddwd, vpaddd
int32_t peak_avxvnni(int64_t rounds);     // vpdpbusd on 256 bits
int32_t peak_avx512vnni(int64_t rounds);  // vpdpbusd on 512 bits

}  // namespace qstep::kernels
