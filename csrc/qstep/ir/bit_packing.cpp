#include "qstep/ir/bit_packing.h"

#include <utility>

namespace qstep::ir {

void BitWriter::put(uint32_t field, int32_t width) {
  pending_ |= (field & ((1U << width) - 1)) << pending_bits_;
  pending_bits_ += width;
  for (; pending_bits_ >= 8; pending_bits_ -= 8, pending_ >>= 8) bytes_.push_back(static_cast<uint8_t>(pending_));
}

std::vector<uint8_t> BitWriter::finish() {
  if (pending_bits_ > 0) bytes_.push_back(static_cast<uint8_t>(pending_));
  return std::move(bytes_);
}

uint32_t BitReader::take(int32_t width) {
  for (; pending_bits_ < width; pending_bits_ += 8) {
    pending_ |= static_cast<uint32_t>(bytes_[next_++]) << pending_bits_;
  }
  const uint32_t field = pending_ & ((1U << width) - 1);
  pending_ >>= width;
  pending_bits_ -= width;
  return field;
}

std::vector<uint8_t> pack_bits(std::span<const int16_t> codes, int32_t bit_width) {
  BitWriter stream(packed_size(static_cast<int64_t>(codes.size()), bit_width));
  for (const int16_t code : codes) stream.put(static_cast<uint32_t>(code), bit_width);
  return stream.finish();
}

std::vector<int16_t> unpack_bits(std::span<const uint8_t> bytes, int64_t count, int32_t bit_width, bool is_signed) {
  std::vector<int16_t> codes(static_cast<size_t>(count));
  const auto sign = static_cast<int32_t>(is_signed ? 1U << (bit_width - 1) : 0U);
  BitReader stream(bytes);
  for (int16_t& code : codes) {
    code = static_cast<int16_t>((static_cast<int32_t>(stream.take(bit_width)) ^ sign) - sign);
  }
  return codes;
}

bool has_zero_fill(std::span<const uint8_t> bytes, int64_t count, int32_t bit_width) {
  const auto used = static_cast<int32_t>(count * bit_width % 8);
  return used == 0 || bytes.empty() || (bytes.back() >> used) == 0;
}

}  // namespace qstep::ir
