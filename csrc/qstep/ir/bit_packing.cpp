#include "qstep/ir/bit_packing.h"

namespace qstep::ir {

std::vector<uint8_t> pack_bits(std::span<const int16_t> codes, int32_t bit_width) {
  std::vector<uint8_t> bytes;
  bytes.reserve(static_cast<size_t>(packed_size(static_cast<int64_t>(codes.size()), bit_width)));
  const uint32_t mask = (1U << bit_width) - 1;
  uint32_t pending = 0;  // bits not yet written, the oldest lowest
  int32_t pending_bits = 0;
  for (const int16_t code : codes) {
    pending |= (static_cast<uint32_t>(code) & mask) << pending_bits;
    pending_bits += bit_width;
    while (pending_bits >= 8) {
      bytes.push_back(static_cast<uint8_t>(pending));
      pending >>= 8;
      pending_bits -= 8;
    }
  }
  if (pending_bits > 0) bytes.push_back(static_cast<uint8_t>(pending));
  return bytes;
}

std::vector<int16_t> unpack_bits(std::span<const uint8_t> bytes, int64_t count, int32_t bit_width, bool is_signed) {
  std::vector<int16_t> codes(static_cast<size_t>(count));
  const uint32_t mask = (1U << bit_width) - 1;
  const auto sign = static_cast<int32_t>(is_signed ? 1U << (bit_width - 1) : 0U);
  uint32_t pending = 0;
  int32_t pending_bits = 0;
  size_t next = 0;
  for (int16_t& code : codes) {
    if (pending_bits < bit_width) {
      pending |= static_cast<uint32_t>(bytes[next++]) << pending_bits;
      pending_bits += 8;
    }
    code = static_cast<int16_t>((static_cast<int32_t>(pending & mask) ^ sign) - sign);
    pending >>= bit_width;
    pending_bits -= bit_width;
  }
  return codes;
}

bool has_zero_fill(std::span<const uint8_t> bytes, int64_t count, int32_t bit_width) {
  const auto used = static_cast<int32_t>(count * bit_width % 8);
  return used == 0 || bytes.empty() || (bytes.back() >> used) == 0;
}

}  // namespace qstep::ir
