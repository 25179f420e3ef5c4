#pragma once
// Weights as the checkpoint stores them: one stream of bits, in the order of bit_packing.h. docs/format.md, section 6.
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "qstep/ir/graph.h"

namespace qstep::ir {

/// The codes of a valid weight.
std::vector<uint8_t> store_codes(const Weight& weight);

/// Sets weight.codes from the stream; its shape, of `count` weights, bit_width and encoding are known and in range. Throws
/// Error beginning with `what` for a stream that store_codes would not have made, before anything of size `count` is
/// allocated.
void restore_codes(std::span<const uint8_t> stream, int64_t count, Weight& weight, std::string_view what);

/// Bytes of the tables that the stream refers to.
int64_t table_bytes(const Weight& weight);

}  // namespace qstep::ir
