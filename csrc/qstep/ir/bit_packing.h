#pragma once
// Integer codes at their true width: code i occupies bits [i * bit_width, (i + 1) * bit_width) of the stream, bit k of
// the stream is bit k % 8 of byte k / 8, and the last byte is filled with zeros. Signed codes are two's complement.
#include <cstdint>
#include <span>
#include <vector>

namespace qstep::ir {

/// Bytes of `count` codes. bit_width in [1, 8], count in [0, 2^40].
constexpr int64_t packed_size(int64_t count, int32_t bit_width) { return (count * bit_width + 7) / 8; }

std::vector<uint8_t> pack_bits(std::span<const int16_t> codes, int32_t bit_width);

/// The first `count` codes; bytes.size() must be packed_size(count, bit_width).
std::vector<int16_t> unpack_bits(std::span<const uint8_t> bytes, int64_t count, int32_t bit_width, bool is_signed);

/// True where the bits after the last code are zero.
bool has_zero_fill(std::span<const uint8_t> bytes, int64_t count, int32_t bit_width);

}  // namespace qstep::ir
