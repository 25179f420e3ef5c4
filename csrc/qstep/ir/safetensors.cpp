#include "qstep/ir/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string_view>
#include <utility>

#include "qstep/core/error.h"
#include "qstep/ir/strict_json.h"

namespace qstep::ir {
namespace {

static_assert(std::endian::native == std::endian::little, "the bytes of a checkpoint are copied as they are");

constexpr uint64_t length_bytes = 8;
constexpr const char* metadata_key = "__metadata__";

struct DtypeInfo {
  const char* name;
  int64_t bytes;
};
constexpr std::array<DtypeInfo, 6> dtypes = {{{"U8", 1}, {"I8", 1}, {"I16", 2}, {"I32", 4}, {"I64", 8}, {"F64", 8}}};

int64_t dtype_bytes(Dtype dtype) { return dtypes[static_cast<size_t>(dtype)].bytes; }

Dtype dtype_from_name(const std::string& name, const std::string& field) {
  for (size_t i = 0; i < dtypes.size(); ++i) {
    if (name == dtypes[i].name) return static_cast<Dtype>(i);
  }
  fail("checkpoint: {}.dtype: must be U8, I8, I16, I32, I64 or F64, got '{}'", field, name.substr(0, 32));
}

// An array of integers >= 0 that fit int64.
std::vector<int64_t> read_sizes(const Json& json, const std::string& field, size_t most) {
  require(json.is_array() && json.size() <= most, "checkpoint: {}: must be an array of at most {} integers", field,
          most);
  std::vector<int64_t> sizes;
  for (const Json& item : json) {
    require(item.is_number_unsigned() && item.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX),
            "checkpoint: {}: must hold integers >= 0", field);
    sizes.push_back(item.get<int64_t>());
  }
  return sizes;
}

const Json& member(const Json& object, const char* key, const std::string& field) {
  const auto found = object.find(key);
  require(found != object.end(), "checkpoint: {}: the field '{}' is missing", field, key);
  return *found;
}

StoredTensor read_tensor(const Json& json, const std::string& field, std::span<const uint8_t> data) {
  require(json.is_object() && json.size() == 3, "checkpoint: {}: must be an object with dtype, shape and data_offsets",
          field);
  StoredTensor tensor;
  const Json& dtype = member(json, "dtype", field);
  require(dtype.is_string(), "checkpoint: {}.dtype: must be a string", field);
  tensor.dtype = dtype_from_name(dtype.get_ref<const std::string&>(), field);
  tensor.shape = read_sizes(member(json, "shape", field), field + ".shape", max_rank);
  const std::vector<int64_t> offsets = read_sizes(member(json, "data_offsets", field), field + ".data_offsets", 2);
  require(offsets.size() == 2 && offsets[0] <= offsets[1] && static_cast<uint64_t>(offsets[1]) <= data.size(),
          "checkpoint: {}.data_offsets: must be [begin, end] within the {} bytes of data", field, data.size());
  const int64_t bytes =
      element_count(tensor.shape, fmt::format("checkpoint: {}.shape", field)) * dtype_bytes(tensor.dtype);
  require(bytes == offsets[1] - offsets[0], "checkpoint: {}.data_offsets: shape and dtype need {} bytes, got {}", field,
          bytes, offsets[1] - offsets[0]);
  tensor.bytes = data.subspan(static_cast<size_t>(offsets[0]), static_cast<size_t>(bytes));
  return tensor;
}

// No gap, no overlap, nothing after the last tensor.
void check_tiling(const std::map<std::string, StoredTensor>& tensors, std::span<const uint8_t> data) {
  std::vector<std::pair<size_t, size_t>> ranges;
  for (const auto& [name, tensor] : tensors) {
    const auto begin = static_cast<size_t>(tensor.bytes.data() - data.data());
    ranges.emplace_back(begin, begin + tensor.bytes.size());
  }
  std::sort(ranges.begin(), ranges.end());
  size_t end = 0;
  for (const auto& [begin, next] : ranges) {
    require(begin == end,
            "checkpoint: data_offsets: tensors must follow each other without gap or overlap, got one at {} after {}",
            begin, end);
    end = next;
  }
  require(end == data.size(), "checkpoint: data_offsets: the tensors take {} bytes, the file has {} bytes of data", end,
          data.size());
}

}  // namespace

const char* dtype_name(Dtype dtype) { return dtypes[static_cast<size_t>(dtype)].name; }

Safetensors parse_safetensors(std::span<const uint8_t> file) {
  require(file.size() >= length_bytes, "checkpoint: header length: a file has at least {} bytes, got {}", length_bytes,
          file.size());
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.data(), length_bytes);
  require(header_bytes <= max_header_bytes, "checkpoint: header length: at most {} bytes, got {}", max_header_bytes,
          header_bytes);
  require(header_bytes <= file.size() - length_bytes, "checkpoint: header length: {} bytes, but the file ends after {}",
          header_bytes, file.size() - length_bytes);
  require(header_bytes % 8 == 0, "checkpoint: header length: must be a multiple of 8, got {}", header_bytes);
  const auto header = file.subspan(length_bytes, header_bytes);
  const auto data = file.subspan(length_bytes + header_bytes);
  require(!header.empty() && header[0] == '{', "checkpoint: header: must be a JSON object");

  const Json json = parse_json({reinterpret_cast<const char*>(header.data()), header.size()}, "checkpoint: header");
  Safetensors result;
  for (const auto& [name, entry] : json.items()) {
    if (name == metadata_key) {
      require(entry.is_object(), "checkpoint: {}: must be an object", metadata_key);
      for (const auto& [key, text] : entry.items()) {
        require(text.is_string(), "checkpoint: {}: must map strings to strings", metadata_key);
        result.metadata[key] = text.get_ref<const std::string&>();
      }
    } else {
      result.tensors[name] = read_tensor(entry, fmt::format("tensor '{}'", name.substr(0, 200)), data);
    }
  }
  check_tiling(result.tensors, data);
  return result;
}

std::vector<uint8_t> make_safetensors(const std::map<std::string, std::string>& metadata,
                                      std::vector<NewTensor> tensors) {
  std::stable_sort(tensors.begin(), tensors.end(),
                   [](const NewTensor& a, const NewTensor& b) { return dtype_bytes(a.dtype) > dtype_bytes(b.dtype); });
  Json header = Json::object();
  header[metadata_key] = metadata;
  size_t end = 0;
  for (const NewTensor& tensor : tensors) {
    const size_t begin = std::exchange(end, end + tensor.bytes.size());
    header[tensor.name] = {
        {"dtype", dtype_name(tensor.dtype)}, {"shape", tensor.shape}, {"data_offsets", {begin, end}}};
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const Json::exception&) {  // the one reason for which writing JSON fails
    fail("checkpoint: names must be valid UTF-8");
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  require(text.size() <= max_header_bytes, "checkpoint: header length: at most {} bytes, got {}", max_header_bytes,
          text.size());

  const uint64_t header_bytes = text.size();
  std::vector<uint8_t> file(length_bytes + text.size());
  file.reserve(file.size() + end);
  std::memcpy(file.data(), &header_bytes, length_bytes);
  std::memcpy(file.data() + length_bytes, text.data(), text.size());
  for (const NewTensor& tensor : tensors) file.insert(file.end(), tensor.bytes.begin(), tensor.bytes.end());
  return file;
}

}  // namespace qstep::ir
