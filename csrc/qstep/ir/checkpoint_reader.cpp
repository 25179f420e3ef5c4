#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <string>
#include <unordered_map>
#include <utility>

#include "qstep/core/error.h"
#include "qstep/core/version.h"
#include "qstep/ir/checkpoint.h"
#include "qstep/ir/fields.h"
#include "qstep/ir/file.h"
#include "qstep/ir/safetensors.h"
#include "qstep/ir/strict_json.h"
#include "qstep/ir/weight_storage.h"

namespace qstep::ir {
namespace {

constexpr uint64_t largest_file = uint64_t{1} << 32;

using Tensors = std::map<std::string, StoredTensor>;

template <class T>
inline constexpr Dtype dtype_of = Dtype::u8;
template <>
inline constexpr Dtype dtype_of<int8_t> = Dtype::i8;
template <>
inline constexpr Dtype dtype_of<int16_t> = Dtype::i16;
template <>
inline constexpr Dtype dtype_of<int32_t> = Dtype::i32;
template <>
inline constexpr Dtype dtype_of<int64_t> = Dtype::i64;
template <>
inline constexpr Dtype dtype_of<double> = Dtype::f64;

/// What all parts of one file share.
struct File {
  Tensors& tensors;
  int64_t version = format_version;
};

/// The alternative of `Variant` that `name_of` calls `name`; throws Error, saying `what` is unknown, where there is none.
template <class Variant, size_t... index>
Variant make_alternative(std::string_view name, const char* (*name_of)(const Variant&), std::string_view what,
                         std::index_sequence<index...>) {
  Variant result;
  const auto is_it = [&](Variant candidate) {
    const bool same = name == name_of(candidate);
    if (same) result = std::move(candidate);
    return same;
  };
  const bool known = (is_it(Variant(std::in_place_index<index>)) || ...);
  require(known, "checkpoint: {} '{}'", what, name.substr(0, 200));
  return result;
}

template <class Variant>
Variant make_alternative(std::string_view name, const char* (*name_of)(const Variant&), std::string_view what) {
  return make_alternative(name, name_of, what, std::make_index_sequence<std::variant_size_v<Variant>>());
}

/// Reads the fields of one JSON object, each exactly once, and the tensors of the value or node `name`, which it takes
/// out of the map.
class Reader {
 public:
  Reader(const Json& object, std::string path, std::string name, File& file)
      : object_(object), path_(std::move(path)), name_(std::move(name)), file_(file) {
    require(object_.is_object(), "checkpoint: {}: must be an object", path_);
  }

  template <class T>
  void operator()(const char* key, T& field) {
    read(take(key), at(key), field);
  }

  /// A field that files of earlier versions do not have: it keeps its default there.
  template <class T>
  void since(int64_t version, const char* key, T& field) {
    if (file_.version >= version) (*this)(key, field);
  }

  template <class T>
  void object(const char* key, T& structure) {
    Reader inner(take(key), at(key), name_, file_);
    fields(inner, structure);
    inner.finish();
  }

  template <class T>
  void optional_object(const char* key, T& structure) {
    const auto found = object_.find(key);
    if (found != object_.end() && found->is_null()) {
      take(key);
    } else {
      object(key, structure);
    }
  }

  /// Weights were uniform before there were encodings.
  void encoding(WeightEncoding& encoding) {
    std::string name = encoding_name(UniformEncoding{});
    since(2, "encoding", name);
    encoding = make_alternative(name, &encoding_name, at("encoding") + ": unknown encoding of weights");
    std::visit([&](auto& e) { fields(*this, e); }, encoding);
  }

  template <class T>
  void tensor(const char* suffix, std::vector<T>& values) {
    const StoredTensor stored = take_tensor(suffix, dtype_of<T>);
    values.resize(stored.bytes.size() / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), stored.bytes.data(), stored.bytes.size());
  }

  void multipliers(std::vector<Multiplier>& multipliers) {
    std::vector<int32_t> mantissas;
    std::vector<int8_t> shifts;
    tensor("multiplier", mantissas);
    tensor("shift", shifts);
    require(!mantissas.empty() && mantissas.size() == shifts.size(),
            "checkpoint: tensor '{}.shift': must have as many elements as '{}.multiplier', at least 1, got {} and {}",
            name_, name_, shifts.size(), mantissas.size());
    for (size_t i = 0; i < shifts.size(); ++i) multipliers.push_back({mantissas[i], shifts[i]});
  }

  void codes(Weight& weight) {
    check_encoding(weight);
    const int64_t count = element_count(weight.shape, fmt::format("checkpoint: {}", at("shape")));
    const StoredTensor stored = take_tensor("weight", Dtype::u8);
    restore_codes(stored.bytes, count, weight, fmt::format("checkpoint: tensor '{}.weight'", name_));
  }

  /// The field's JSON, which counts as read.
  const Json& take(const char* key) {
    const auto found = object_.find(key);
    require(found != object_.end(), "checkpoint: {}: the field is missing", at(key));
    known_.emplace_back(key);
    return *found;
  }

  std::string at(std::string_view key) const { return fmt::format("{}.{}", path_, key); }

  /// Throws for a field that nobody took: what it would mean is not known.
  void finish() const {
    for (const auto& [key, value] : object_.items()) {
      const bool known = std::find(known_.begin(), known_.end(), key) != known_.end();
      require(known, "checkpoint: {}: unknown field", at(std::string_view(key).substr(0, 200)));
    }
  }

 private:
  static int64_t read_integer(const Json& json, const std::string& path, int64_t low, int64_t high) {
    const bool fits = json.is_number_integer() &&
                      (!json.is_number_unsigned() || json.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX));
    require(fits, "checkpoint: {}: must be an integer of 64 bits", path);
    const auto value = json.get<int64_t>();
    require(value >= low && value <= high, "checkpoint: {}: must be in [{}, {}], got {}", path, low, high, value);
    return value;
  }

  static void read(const Json& json, const std::string& path, int64_t& field) {
    field = read_integer(json, path, INT64_MIN, INT64_MAX);
  }

  static void read(const Json& json, const std::string& path, int32_t& field) {
    field = static_cast<int32_t>(read_integer(json, path, INT32_MIN, INT32_MAX));
  }

  static void read(const Json& json, const std::string& path, bool& field) {
    require(json.is_boolean(), "checkpoint: {}: must be true or false", path);
    field = json.get<bool>();
  }

  static void read(const Json& json, const std::string& path, float& field) {
    require(json.is_number(), "checkpoint: {}: must be a number", path);
    const auto value = json.get<double>();
    require(std::fabs(value) <= FLT_MAX, "checkpoint: {}: must be a float32, got {}", path, value);
    field = static_cast<float>(value);
    require(static_cast<double>(field) == value, "checkpoint: {}: must be a float32, got {}", path, value);
  }

  static void read(const Json& json, const std::string& path, std::string& field) {
    require(json.is_string(), "checkpoint: {}: must be a string", path);
    field = json.get_ref<const std::string&>();
  }

  template <class T, size_t size>
  static void read(const Json& json, const std::string& path, T (&field)[size]) {
    require(json.is_array() && json.size() == size, "checkpoint: {}: must be an array of {} integers", path, size);
    for (size_t i = 0; i < size; ++i) read(json[i], path, field[i]);
  }

  template <class T>
  static void read(const Json& json, const std::string& path, std::vector<T>& field) {
    require(json.is_array() && json.size() <= max_rank, "checkpoint: {}: must be an array of at most {} integers", path,
            max_rank);
    field.resize(json.size());
    for (size_t i = 0; i < field.size(); ++i) read(json[i], path, field[i]);
  }

  template <class Enumeration>
  requires std::is_enum_v<Enumeration>
  static void read(const Json& json, const std::string& path, Enumeration& field) {
    std::string name;
    read(json, path, name);
    constexpr auto& names = spelling<Enumeration>;
    for (size_t i = 0; i < names.size(); ++i) {
      if (name == names[i]) {
        field = static_cast<Enumeration>(i);
        return;
      }
    }
    fail("checkpoint: {}: must be one of {}, got '{}'", path, fmt::join(names, ", "), name.substr(0, 200));
  }

  // Only what unpacking relies on; validate() checks the rest.
  void check_encoding(const Weight& weight) const {
    const auto expect = [&](const char* key, int64_t found, int64_t low, int64_t high) {
      require(found >= low && found <= high, "checkpoint: {}: must be in [{}, {}], got {}", at(key), low, high, found);
    };
    const bool is_power = std::holds_alternative<PowerOfTwoEncoding>(weight.encoding);
    const auto* book = std::get_if<CodeBookEncoding>(&weight.encoding);
    expect("bit_width", weight.bit_width, book != nullptr ? 1 : 2, is_power ? 5 : 8);
    if (const auto* pieces = std::get_if<PiecewiseEncoding>(&weight.encoding)) expect("regions", pieces->regions, 2, 4);
    if (book == nullptr) return;
    expect("entries", book->entries, 2, int64_t{1} << weight.bit_width);
    const auto tables = static_cast<int64_t>(book->levels.size()) / book->entries;
    const int64_t channels = weight.shape.empty() ? 0 : weight.shape[0];
    require(tables * book->entries == static_cast<int64_t>(book->levels.size()) && tables >= 1 &&
                (tables == 1 || tables == channels),
            "checkpoint: tensor '{}.levels': must be 1 or {} tables of {}, got {} elements", name_, channels,
            book->entries, book->levels.size());
  }

  StoredTensor take_tensor(const char* suffix, Dtype dtype) {
    const auto taken = file_.tensors.extract(name_ + "." + suffix);
    require(!taken.empty(), "checkpoint: tensor '{}.{}' is missing", name_, suffix);
    const StoredTensor& tensor = taken.mapped();
    require(tensor.dtype == dtype, "checkpoint: tensor '{}.{}': dtype must be {}, got {}", name_, suffix,
            dtype_name(dtype), dtype_name(tensor.dtype));
    require(tensor.shape.size() == 1, "checkpoint: tensor '{}.{}': must have one dimension, got {}", name_, suffix,
            tensor.shape.size());
    return tensor;
  }

  const Json& object_;
  std::string path_;  // where this object is, for messages
  std::string name_;
  File& file_;
  std::vector<std::string_view> known_;
};

/// The graph of the JSON text, its tensors taken out of `tensors`.
class GraphReader {
 public:
  GraphReader(const Json& json, Tensors& tensors) : file_{tensors}, top_(json, "graph", "", file_) {}

  Graph read() {
    check_version();
    std::string written_by;
    top_("qstep_version", written_by);
    top_("policy", graph_.policy);
    read_values(top_.take("values"));
    read_nodes(top_.take("nodes"));
    graph_.inputs = read_names(top_.take("inputs"), "graph.inputs");
    graph_.outputs = read_names(top_.take("outputs"), "graph.outputs");
    top_.finish();
    return std::move(graph_);
  }

 private:
  // First of all: what else a newer file holds is not this reader's to judge.
  void check_version() {
    top_("format_version", file_.version);
    require(file_.version >= 1 && file_.version <= format_version,
            "checkpoint: graph.format_version: this build (qstep " QSTEP_VERSION
            ") reads versions 1 to {}, the file has version {}",
            format_version, file_.version);
  }

  void read_values(const Json& list) {
    require(list.is_array(), "checkpoint: graph.values: must be an array");
    for (const Json& entry : list) {
      Value value;
      Reader reader = open(entry, fmt::format("graph.values[{}]", graph_.values.size()), value.name);
      fields(reader, value);
      reader.finish();
      const bool is_new = ids_.emplace(value.name, static_cast<ValueId>(graph_.values.size())).second;
      require(is_new, "checkpoint: {}: two values have the name '{}'", reader.at("name"), value.name.substr(0, 200));
      graph_.values.push_back(std::move(value));
    }
  }

  void read_nodes(const Json& list) {
    require(list.is_array(), "checkpoint: graph.nodes: must be an array");
    for (const Json& entry : list) {
      Node node;
      Reader reader = open(entry, fmt::format("graph.nodes[{}]", graph_.nodes.size()), node.name);
      node.output = find(node.name, reader.at("name"));
      std::string kind;
      reader("kind", kind);
      node.operation = make_alternative(kind, &kind_name, reader.at("kind") + ": unknown kind of node");
      node.inputs = read_names(reader.take("inputs"), reader.at("inputs"));
      std::visit([&](auto& operation) { fields(reader, operation); }, node.operation);
      reader.finish();
      graph_.nodes.push_back(std::move(node));
    }
  }

  // A reader of the entry's fields and of the tensors that are called after its name.
  Reader open(const Json& entry, const std::string& path, std::string& name) {
    Reader(entry, path, "", file_)("name", name);
    Reader reader(entry, path, name, file_);
    reader.take("name");
    return reader;
  }

  ValueId find(const std::string& name, const std::string& path) const {
    const auto found = ids_.find(name);
    require(found != ids_.end(), "checkpoint: {}: no value has the name '{}'", path, name.substr(0, 200));
    return found->second;
  }

  std::vector<ValueId> read_names(const Json& list, const std::string& path) const {
    require(list.is_array(), "checkpoint: {}: must be an array of names", path);
    std::vector<ValueId> ids;
    for (const Json& name : list) {
      require(name.is_string(), "checkpoint: {}: must be an array of names", path);
      ids.push_back(find(name.get_ref<const std::string&>(), path));
    }
    return ids;
  }

  File file_;
  Reader top_;
  Graph graph_;
  std::unordered_map<std::string, ValueId> ids_;
};

Graph read_graph(std::span<const uint8_t> bytes) {
  Safetensors container = parse_safetensors(bytes);
  auto& metadata = container.metadata;
  require(metadata.contains("format") && metadata["format"] == "qstep",
          "checkpoint: __metadata__.format: must be 'qstep'; this is not a checkpoint of an integer network");
  require(metadata.contains("graph"), "checkpoint: __metadata__.graph: the field is missing");
  const Json json = parse_json(metadata["graph"], "checkpoint: __metadata__.graph");
  Graph graph = GraphReader(json, container.tensors).read();
  require(metadata.size() == 2, "checkpoint: __metadata__: only the fields 'format' and 'graph' are known");
  for (const auto& [name, tensor] : container.tensors)
    fail("checkpoint: tensor '{}' belongs to no node", name.substr(0, 200));
  validate(graph);
  return graph;
}

}  // namespace

Graph from_bytes(std::span<const uint8_t> bytes) {
  try {
    return read_graph(bytes);
  } catch (const std::bad_alloc&) {
    fail("checkpoint: not enough memory for a file of {} bytes", bytes.size());
  }
}

Graph load(const std::filesystem::path& path) {
  try {
    return from_bytes(read_file(path, largest_file).bytes());
  } catch (const std::bad_alloc&) {
    fail("checkpoint '{}': not enough memory", path.string());
  } catch (const Error& error) {
    fail("checkpoint '{}': {}", path.string(), error.what());
  }
}

}  // namespace qstep::ir
