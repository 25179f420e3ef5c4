#include <cstring>
#include <string>

#include "qstep/core/version.h"
#include "qstep/ir/checkpoint.h"
#include "qstep/ir/fields.h"
#include "qstep/ir/file.h"
#include "qstep/ir/safetensors.h"
#include "qstep/ir/strict_json.h"
#include "qstep/ir/weight_storage.h"

namespace qstep::ir {
namespace {

template <class T>
std::vector<uint8_t> to_byte_vector(const std::vector<T>& values) {
  std::vector<uint8_t> bytes(values.size() * sizeof(T));
  if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

Dtype dtype_of(uint8_t) { return Dtype::u8; }
Dtype dtype_of(int8_t) { return Dtype::i8; }
Dtype dtype_of(int16_t) { return Dtype::i16; }
Dtype dtype_of(int32_t) { return Dtype::i32; }
Dtype dtype_of(int64_t) { return Dtype::i64; }
Dtype dtype_of(double) { return Dtype::f64; }

/// Writes fields into one JSON object, and the tensors of the value or node `name` into a list.
class Writer {
 public:
  Writer(OrderedJson& object, const std::string& name, std::vector<NewTensor>& tensors)
      : object_(object), name_(name), tensors_(tensors) {}

  template <class T>
  void operator()(const char* key, const T& field) {
    if constexpr (std::is_enum_v<T>) {
      object_[key] = spelling<T>[static_cast<size_t>(field)];
    } else {
      object_[key] = field;
    }
  }

  template <class T>
  void since(int64_t, const char* key, const T& field) {
    (*this)(key, field);
  }

  template <class T>
  void object(const char* key, const T& structure) {
    object_[key] = OrderedJson::object();
    Writer inner(object_[key], name_, tensors_);
    fields(inner, structure);
  }

  template <class T>
  void optional_object(const char* key, const T& structure) {
    if (structure == T{}) {
      object_[key] = nullptr;
    } else {
      object(key, structure);
    }
  }

  void encoding(const WeightEncoding& encoding) {
    object_["encoding"] = encoding_name(encoding);
    std::visit([&](const auto& e) { fields(*this, e); }, encoding);
  }

  template <class T>
  void tensor(const char* suffix, const std::vector<T>& values) {
    add(suffix, dtype_of(T{}), to_byte_vector(values), values.size());
  }

  void multipliers(const std::vector<Multiplier>& multipliers) {
    std::vector<int32_t> mantissas;
    std::vector<int8_t> shifts;
    for (const Multiplier& m : multipliers) {
      mantissas.push_back(m.multiplier);
      shifts.push_back(static_cast<int8_t>(m.shift));
    }
    tensor("multiplier", mantissas);
    tensor("shift", shifts);
  }

  void codes(const Weight& weight) {
    std::vector<uint8_t> packed = store_codes(weight);
    const size_t size = packed.size();
    add("weight", Dtype::u8, std::move(packed), size);
  }

 private:
  void add(const char* suffix, Dtype dtype, std::vector<uint8_t> bytes, size_t count) {
    tensors_.push_back({name_ + "." + suffix, dtype, {static_cast<int64_t>(count)}, std::move(bytes)});
  }

  OrderedJson& object_;
  const std::string& name_;
  std::vector<NewTensor>& tensors_;
};

OrderedJson names(const Graph& graph, const std::vector<ValueId>& ids) {
  OrderedJson list = OrderedJson::array();
  for (const ValueId id : ids) list.push_back(graph.values[static_cast<size_t>(id)].name);
  return list;
}

}  // namespace

std::vector<uint8_t> to_bytes(const Graph& graph) {
  validate(graph);
  std::vector<NewTensor> tensors;
  OrderedJson json = {{"format_version", format_version}, {"qstep_version", QSTEP_VERSION}};
  json["policy"] = spelling<RequantPolicy>[static_cast<size_t>(graph.policy)];
  json["inputs"] = names(graph, graph.inputs);
  json["outputs"] = names(graph, graph.outputs);
  json["values"] = OrderedJson::array();
  for (const Value& value : graph.values) {
    OrderedJson entry = {{"name", value.name}};
    Writer writer(entry, value.name, tensors);
    fields(writer, value);
    json["values"].push_back(std::move(entry));
  }
  json["nodes"] = OrderedJson::array();
  for (const Node& node : graph.nodes) {
    OrderedJson entry = {
        {"name", node.name}, {"kind", kind_name(node.operation)}, {"inputs", names(graph, node.inputs)}};
    Writer writer(entry, node.name, tensors);
    std::visit([&](const auto& operation) { fields(writer, operation); }, node.operation);
    json["nodes"].push_back(std::move(entry));
  }
  std::string text;
  try {
    text = json.dump();
  } catch (const OrderedJson::exception&) {  // the one reason for which writing JSON fails
    fail("checkpoint: names must be valid UTF-8");
  }
  return make_safetensors({{"format", "qstep"}, {"graph", std::move(text)}}, std::move(tensors));
}

void save(const Graph& graph, const std::filesystem::path& path) { write_file_atomically(path, to_bytes(graph)); }

}  // namespace qstep::ir
