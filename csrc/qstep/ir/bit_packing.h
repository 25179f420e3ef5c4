#pragma once
// Integer codes at their true width: code i occupies bits [i * bit_width, (i + 1) * bit_width) of the stream, bit k of
// the stream is bit k % 8 of byte k / 8, and the last byte is filled with zeros. Signed codes are two's complement.
#include <cstdint>
#include <span>
#include <vector>

namespace qstep::ir {

/// Bytes of `count` codes. bit_width in [1, 10], count in [0, 2^40].
constexpr int64_t packed_size(int64_t count, int32_t bit_width) { return (count * bit_width + 7) / 8; }

/// Appends fields of up to 16 bits to a stream.
class BitWriter {
 public:
  /// `bytes`: of the whole stream, where that is known.
  explicit BitWriter(int64_t bytes = 0) { bytes_.reserve(static_cast<size_t>(bytes)); }

  /// The lowest `width` bits of `field`; its other bits do not count.
  void put(uint32_t field, int32_t width);
  /// The stream, its last byte filled with zeros.
  std::vector<uint8_t> finish();

 private:
  std::vector<uint8_t> bytes_;
  uint32_t pending_ = 0;  // bits not yet in bytes_, the oldest lowest
  int32_t pending_bits_ = 0;
};

/// Takes fields of up to 16 bits from the front of a stream, which must hold them.
class BitReader {
 public:
  explicit BitReader(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  int64_t left() const { return static_cast<int64_t>(bytes_.size() - next_) * 8 + pending_bits_; }
  uint32_t take(int32_t width);

 private:
  std::span<const uint8_t> bytes_;
  size_t next_ = 0;
  uint32_t pending_ = 0;
  int32_t pending_bits_ = 0;
};

std::vector<uint8_t> pack_bits(std::span<const int16_t> codes, int32_t bit_width);

/// The first `count` codes; bytes.size() must be packed_size(count, bit_width).
std::vector<int16_t> unpack_bits(std::span<const uint8_t> bytes, int64_t count, int32_t bit_width, bool is_signed);

/// True where the bits after the last code are zero.
bool has_zero_fill(std::span<const uint8_t> bytes, int64_t count, int32_t bit_width);

}  // namespace qstep::ir
