#include "qstep/ir/weight_storage.h"

#include <algorithm>
#include <cstdlib>

#include "qstep/core/error.h"
#include "qstep/ir/bit_packing.h"
#include "qstep/ir/weight.h"

namespace qstep::ir {
namespace {

// --- powers of two: a flag that the weight is not 0, its sign, and how many powers it lies below the largest -----------

int16_t power_of_two_code(int16_t level, int32_t bit_width) {
  if (level == 0) return 0;
  const int32_t exponent = bits_to_count(std::abs(level));
  const int32_t sign = level < 0 ? 1 : 0;
  return static_cast<int16_t>(1 << (bit_width - 1) | sign << (bit_width - 2) |
                              (largest_exponent(bit_width) - exponent));
}

int16_t power_of_two_level(int16_t code, int32_t bit_width) {
  const int32_t below = code & largest_exponent(bit_width);
  const int32_t level = 1 << (largest_exponent(bit_width) - below);
  return static_cast<int16_t>((code >> (bit_width - 2) & 1) != 0 ? -level : level);
}

std::vector<uint8_t> store_variable_length(const Weight& weight) {
  BitWriter stream;
  for (const int16_t level : weight.codes) {
    stream.put(level != 0 ? 1 : 0, 1);
    if (level != 0) stream.put(static_cast<uint32_t>(power_of_two_code(level, weight.bit_width)), weight.bit_width - 1);
  }
  return stream.finish();
}

void restore_variable_length(std::span<const uint8_t> bytes, int64_t count, Weight& weight, std::string_view what) {
  const auto bits = static_cast<int64_t>(bytes.size()) * 8;
  require(count <= bits, "{}: {} weights take at least as many bits, got {}", what, count, bits);
  weight.codes.resize(static_cast<size_t>(count));
  BitReader stream(bytes);
  for (int16_t& level : weight.codes) {
    const bool is_zero = stream.left() >= 1 && stream.take(1) == 0;
    require(is_zero || stream.left() >= weight.bit_width - 1, "{}: the stream ends before the last of {} weights", what,
            count);
    level = is_zero ? int16_t{0}
                    : power_of_two_level(static_cast<int16_t>(stream.take(weight.bit_width - 1)), weight.bit_width);
  }
  require(stream.left() < 8, "{}: {} bytes follow the last weight", what, stream.left() / 8);
  require(stream.take(static_cast<int32_t>(stream.left())) == 0, "{}: the bits after the last code must be 0", what);
}

// --- the table of a weight's channel -----------------------------------------------------------------------------------

class Tables {
 public:
  Tables(const Weight& weight, const CodeBookEncoding& book)
      : levels_(book.levels),
        entries_(static_cast<size_t>(book.entries)),
        row_(book.levels.size() == entries_ ? 0 : weight.codes.size() / static_cast<size_t>(weight.shape[0])) {}

  std::span<const int16_t> of(size_t weight) const {
    return levels_.subspan(row_ == 0 ? 0 : weight / row_ * entries_, entries_);
  }

 private:
  std::span<const int16_t> levels_;
  size_t entries_;
  size_t row_;  // weights that share a table; 0: all
};

// --- codes of one width ------------------------------------------------------------------------------------------------

int32_t stored_width(const Weight& weight) {
  const PiecewiseEncoding* encoding = piecewise(weight);
  return weight.bit_width + (encoding == nullptr ? 0 : bits_to_count(encoding->regions));
}

bool has_variable_length(const Weight& weight) {
  const auto* powers = std::get_if<PowerOfTwoEncoding>(&weight.encoding);
  return powers != nullptr && powers->variable_length;
}

bool has_signed_codes(const Weight& weight) {
  const auto* uniform = std::get_if<UniformEncoding>(&weight.encoding);
  return uniform != nullptr && uniform->is_signed;
}

}  // namespace

std::vector<uint8_t> store_codes(const Weight& weight) {
  if (has_variable_length(weight)) return store_variable_length(weight);
  const int32_t width = stored_width(weight);
  const auto* book = std::get_if<CodeBookEncoding>(&weight.encoding);
  const bool is_powers_of_two = std::holds_alternative<PowerOfTwoEncoding>(weight.encoding);
  if (book == nullptr && !is_powers_of_two) return pack_bits(weight.codes, width);
  BitWriter stream(packed_size(static_cast<int64_t>(weight.codes.size()), width));
  if (is_powers_of_two) {
    for (const int16_t level : weight.codes) {
      stream.put(static_cast<uint32_t>(power_of_two_code(level, weight.bit_width)), width);
    }
  } else {
    const Tables tables(weight, *book);
    for (size_t i = 0; i < weight.codes.size(); ++i) {
      const auto table = tables.of(i);
      const auto entry = std::lower_bound(table.begin(), table.end(), weight.codes[i]);
      stream.put(static_cast<uint32_t>(entry - table.begin()), width);
    }
  }
  return stream.finish();
}

void restore_codes(std::span<const uint8_t> stream, int64_t count, Weight& weight, std::string_view what) {
  if (has_variable_length(weight)) return restore_variable_length(stream, count, weight, what);
  const int32_t width = stored_width(weight);
  const int64_t bytes = packed_size(count, width);
  require(static_cast<int64_t>(stream.size()) == bytes, "{}: {} codes of {} bits take {} bytes, got {}", what, count,
          width, bytes, stream.size());
  require(has_zero_fill(stream, count, width), "{}: the bits after the last code must be 0", what);
  weight.codes = unpack_bits(stream, count, width, has_signed_codes(weight));
  if (std::holds_alternative<PowerOfTwoEncoding>(weight.encoding)) {
    const int32_t nonzero = 1 << (weight.bit_width - 1);
    for (int16_t& code : weight.codes) {
      require(code == 0 || (code & nonzero) != 0, "{}: there is no code {}: a zero has no sign and no exponent", what,
              code);
      if (code != 0) code = power_of_two_level(code, weight.bit_width);
    }
  }
  if (const auto* book = std::get_if<CodeBookEncoding>(&weight.encoding)) {
    const Tables tables(weight, *book);
    for (size_t i = 0; i < weight.codes.size(); ++i) {
      const int16_t index = weight.codes[i];
      require(index < book->entries, "{}: an index must be below {}, got {}", what, book->entries, index);
      weight.codes[i] = tables.of(i)[static_cast<size_t>(index)];
    }
  }
}

int64_t table_bytes(const Weight& weight) {
  const auto* book = std::get_if<CodeBookEncoding>(&weight.encoding);
  return book == nullptr ? 0 : static_cast<int64_t>(book->levels.size() * sizeof(int16_t));
}

}  // namespace qstep::ir
