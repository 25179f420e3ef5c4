#pragma once
// The safetensors container: 8 bytes little-endian header length, a JSON header padded with spaces to a multiple of 8,
// then the tensors' bytes one after another. Only what a qstep checkpoint uses: six element types, a map of strings as
// metadata.
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "qstep/ir/graph.h"

namespace qstep::ir {

enum class Dtype : uint8_t { u8, i8, i16, i32, i64, f64 };

inline constexpr uint64_t max_header_bytes = uint64_t{1} << 24;

/// A tensor inside the bytes of a container.
struct StoredTensor {
  Dtype dtype = Dtype::u8;
  Shape shape;
  std::span<const uint8_t> bytes;  ///< not aligned
};

struct Safetensors {
  std::map<std::string, std::string> metadata;
  std::map<std::string, StoredTensor> tensors;
};

/// A tensor to be written.
struct NewTensor {
  std::string name;
  Dtype dtype = Dtype::u8;
  Shape shape;
  std::vector<uint8_t> bytes;
};

const char* dtype_name(Dtype dtype);

/// Throws Error naming the field unless the header is well formed and the tensors tile the data exactly. Allocates in
/// proportion to the header alone, after its length was checked against the file's.
Safetensors parse_safetensors(std::span<const uint8_t> file);

/// Tensors are stored with the widest elements first, so that each is aligned.
std::vector<uint8_t> make_safetensors(const std::map<std::string, std::string>& metadata,
                                      std::vector<NewTensor> tensors);

}  // namespace qstep::ir
