// Damaged, hostile and foreign files: each is either an Error that names the field or, where the damage hit a number
// that may have many values, a graph that is valid. Never a crash, a hang or an allocation out of proportion to the
// file.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "ir/allocation_watch.h"
#include "ir/expect_error.h"
#include "ir/random_graph.h"
#include "ir/sample_graph.h"
#include "qstep/ir/checkpoint.h"

namespace qstep::test {
namespace {

using namespace qstep::ir;
using Json = nlohmann::json;
using Bytes = std::vector<uint8_t>;

/// A file taken apart: the container's header, the graph's JSON text inside it, the data.
struct Parts {
  Json header;
  Json graph;
  Bytes data;
};

Parts take_apart(const Bytes& file) {
  uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  const auto data = file.begin() + 8 + static_cast<std::ptrdiff_t>(length);
  Parts parts{Json::parse(file.begin() + 8, data), {}, Bytes(data, file.end())};
  parts.graph = Json::parse(parts.header["__metadata__"]["graph"].get<std::string>());
  return parts;
}

Bytes with_header(std::string header, const Bytes& data) {
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const uint64_t length = header.size();
  Bytes file(8 + header.size() + data.size());
  std::memcpy(file.data(), &length, 8);
  std::copy(data.begin(), data.end(), std::copy(header.begin(), header.end(), file.begin() + 8));
  return file;
}

Bytes put_together(const Parts& parts) {
  Json header = parts.header;
  if (header.contains("__metadata__") && header["__metadata__"].is_object() && !parts.graph.is_discarded()) {
    header["__metadata__"]["graph"] = parts.graph.dump();
  }
  return with_header(header.dump(), parts.data);
}

/// The damage did what the head of this file promises. Returns true where the file was refused.
bool survives(const Bytes& file) {
  take_allocations().largest;
  bool refused = false;
  try {
    const Graph graph = from_bytes(file);
    validate(graph);
    std::vector<Shape> shapes;
    for (const ValueId id : graph.inputs) shapes.push_back(graph.values[static_cast<size_t>(id)].shape);
    infer_shapes(graph, shapes);
  } catch (const Error& error) {
    refused = true;
    EXPECT_LT(std::strlen(error.what()), 3000U);
  }
  EXPECT_LT(take_allocations().largest, 100 * file.size() + 100000);
  return refused;
}

void expect_refused(const Parts& parts, const std::string& field, const std::string& reason = "") {
  expect_error([&] { from_bytes(put_together(parts)); }, "checkpoint", field, reason);
}

TEST(DamagedCheckpoint, TruncatedOrExtendedAnywhere) {
  const Bytes whole = to_bytes(sample_graph());
  for (size_t size = 0; size < whole.size(); ++size) {
    ASSERT_TRUE(survives(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)))) << "size " << size;
  }
  Bytes longer = whole;
  for (int i = 0; i < 16; ++i) {
    longer.push_back(0);
    ASSERT_TRUE(survives(longer));
  }
  ASSERT_FALSE(survives(whole));
}

TEST(DamagedCheckpoint, HeaderLengths) {
  Bytes file = to_bytes(sample_graph());
  uint64_t true_length = 0;
  std::memcpy(&true_length, file.data(), 8);
  for (int bit = 0; bit < 64; ++bit) {
    for (const uint64_t length :
         {uint64_t{1} << bit, (uint64_t{1} << bit) - 1, ~(uint64_t{1} << bit), file.size() - 8, file.size()}) {
      if (length == true_length) continue;
      std::memcpy(file.data(), &length, 8);
      ASSERT_TRUE(survives(file)) << length;
    }
  }
}

// Every byte of the structure takes a few other values, one at a time.
TEST(DamagedCheckpoint, EachByteChanged) {
  const Bytes whole = to_bytes(sample_graph());
  std::mt19937_64 random(7);
  Bytes file = whole;
  int refused = 0;
  for (size_t i = 0; i < file.size(); ++i) {
    for (const uint8_t change : {uint8_t{1}, uint8_t{0x80}, static_cast<uint8_t>(random() % 255 + 1)}) {
      file[i] ^= change;
      refused += survives(file) ? 1 : 0;
      file[i] = whole[i];
    }
  }
  EXPECT_GT(refused, static_cast<int>(file.size()));  // numbers and names may change and stay valid, structure may not
}

TEST(DamagedCheckpoint, ManyBytesChanged) {
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    std::mt19937_64 random(seed);
    Bytes file = to_bytes(sample_graph());
    for (uint64_t i = 0, count = random() % 8 + 1; i < count; ++i) {
      const auto at = file.begin() + static_cast<std::ptrdiff_t>(random() % file.size());
      const auto length = static_cast<std::ptrdiff_t>(random() % 16);
      const auto end = file.end() - at < length ? file.end() : at + length;
      switch (random() % 4) {
        case 0:
          *at = static_cast<uint8_t>(random());
          break;
        case 1:
          file.erase(at, end);
          break;
        case 2:
          file.insert(at, static_cast<size_t>(length), static_cast<uint8_t>(random()));
          break;
        default: {
          const Bytes piece(at, end);
          file.insert(at, piece.begin(), piece.end());  // repeated
          break;
        }
      }
      if (file.empty()) break;
    }
    survives(file);
  }
}

// --- JSON ------------------------------------------------------------------------------------------------------------

void collect(Json& json, std::vector<Json*>& nodes) {
  nodes.push_back(&json);
  if (json.is_structured()) {
    for (Json& child : json) collect(child, nodes);
  }
}

Json odd_value(std::mt19937_64& random) {
  static const std::vector<Json> values = {nullptr,
                                           true,
                                           0,
                                           -1,
                                           1,
                                           255,
                                           256,
                                           INT32_MAX,
                                           INT32_MIN,
                                           INT64_MAX,
                                           INT64_MIN,
                                           UINT64_MAX,
                                           0.5,
                                           1e300,
                                           1e-300,
                                           -0.0,
                                           "",
                                           "conv2d",
                                           "image",
                                           "U8",
                                           "I32",
                                           "real",
                                           Json::array(),
                                           Json::object(),
                                           Json::array({1, 2}),
                                           Json::array({-1, INT64_MAX}),
                                           std::string(5000, 'x')};
  return values[random() % values.size()];
}

void mutate(Json& root, std::mt19937_64& random) {
  std::vector<Json*> nodes;
  collect(root, nodes);
  Json& target = *nodes[random() % nodes.size()];
  switch (random() % 6) {
    case 0:
      target = odd_value(random);
      break;
    case 1: {  // retargeted: a value from elsewhere
      const Json other = *nodes[random() % nodes.size()];
      target = other;
      break;
    }
    case 2: {  // swapped, unless one holds the other
      Json& other = *nodes[random() % nodes.size()];
      if (!target.is_structured() && !other.is_structured()) std::swap(target, other);
      break;
    }
    case 3:
      if (target.is_structured() && !target.empty())
        target.erase(std::next(target.begin(), static_cast<std::ptrdiff_t>(random() % target.size())));
      break;
    case 4:
      if (target.is_object()) target["surprise"] = odd_value(random);
      if (target.is_array()) target.push_back(target.empty() ? odd_value(random) : target[random() % target.size()]);
      break;
    default:
      if (target.is_number_integer()) target = target.get<int64_t>() + static_cast<int64_t>(random() % 5) - 2;
      break;
  }
}

TEST(DamagedCheckpoint, JsonMutated) {
  int refused = 0;
  const uint64_t variants = 6000;
  for (uint64_t seed = 0; seed < variants; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    std::mt19937_64 random(seed);
    Parts parts = take_apart(to_bytes(seed % 2 == 0 ? sample_graph() : random_graph(random, 8)));
    for (uint64_t i = 0, count = random() % 3 + 1; i < count; ++i)
      mutate(random() % 3 == 0 ? parts.header : parts.graph, random);
    refused += survives(put_together(parts)) ? 1 : 0;
  }
  EXPECT_GT(refused, static_cast<int>(variants / 2));
}

TEST(DamagedCheckpoint, EachFieldMissingOrUnknown) {
  const Parts whole = take_apart(to_bytes(sample_graph()));
  std::vector<Json::json_pointer> objects;
  const std::function<void(const Json&, const Json::json_pointer&)> visit = [&](const Json& json,
                                                                                const Json::json_pointer& at) {
    if (json.is_object()) objects.push_back(at);
    for (const auto& [key, child] : json.items()) {
      if (child.is_structured()) visit(child, json.is_array() ? at / std::stoul(key) : at / key);
    }
  };
  visit(whole.graph, Json::json_pointer());
  int fields = 0;
  for (const auto& at : objects) {
    for (const auto& [key, child] : whole.graph[at].items()) {
      Parts parts = whole;
      parts.graph[at].erase(key);
      expect_refused(parts, "." + key, "missing");
      ++fields;
    }
    Parts parts = whole;
    parts.graph[at]["surprise"] = 1;
    expect_refused(parts, "surprise", "unknown field");
  }
  EXPECT_GT(fields, 150);
}

TEST(DamagedCheckpoint, EachTensorMissingUnknownOrOfAnotherType) {
  const Parts whole = take_apart(to_bytes(sample_graph()));
  int tensors = 0;
  for (const auto& [name, entry] : whole.header.items()) {
    if (name == "__metadata__") continue;
    ++tensors;
    Parts parts = whole;
    parts.header.erase(name);
    parts.header["elsewhere"] = entry;
    expect_refused(parts, name, "missing");
    parts = whole;
    parts.header[name]["dtype"] = entry["dtype"] == "U8" ? "I8" : "U8";
    parts.header[name]["shape"] = {entry["data_offsets"][1].get<int64_t>() - entry["data_offsets"][0].get<int64_t>()};
    expect_refused(parts, name, "dtype must be");
    parts = whole;
    parts.header[name]["shape"].insert(parts.header[name]["shape"].begin(), 1);
    expect_refused(parts, name, "one dimension");
    parts = whole;
    parts.header[name]["dtype"] = "F16";
    expect_refused(parts, name, "dtype: must be");
    parts = whole;
    parts.header[name].erase("shape");
    expect_refused(parts, name, "must be an object with dtype, shape and data_offsets");
    parts = whole;
    parts.header[name]["shape"] = {-1};
    expect_refused(parts, name + "'.shape", ">= 0");
    parts = whole;
    parts.header[name]["shape"] = {int64_t{1} << 32, int64_t{1} << 32, 4};
    expect_refused(parts, name + "'.shape", "2^40");
    parts = whole;
    parts.header[name]["data_offsets"] = {0, parts.data.size() + 1};
    expect_refused(parts, name + "'.data_offsets", "bytes of data");
    parts = whole;
    parts.header[name]["data_offsets"] = {8, 0};
    expect_refused(parts, name + "'.data_offsets");
  }
  EXPECT_EQ(tensors, 8);

  Parts parts = whole;
  parts.header["extra"] = {
      {"dtype", "U8"}, {"shape", {3}}, {"data_offsets", {parts.data.size(), parts.data.size() + 3}}};
  parts.data.resize(parts.data.size() + 3);
  expect_refused(parts, "'extra'", "belongs to no node");
  parts = whole;  // two tensors over the same bytes
  parts.header["conv2d.bias"]["data_offsets"] = parts.header["conv2d.multiplier"]["data_offsets"];
  expect_refused(parts, "data_offsets", "gap or overlap");
  parts = whole;
  parts.data.push_back(0);
  expect_refused(parts, "data_offsets", "the file has");
}

TEST(DamagedCheckpoint, NamesTheFieldOfAWrongValue) {
  const Parts whole = take_apart(to_bytes(sample_graph()));
  const auto expect_field = [&](const char* pointer, const Json& found, const char* field, const char* reason) {
    Parts parts = whole;
    parts.graph[Json::json_pointer(pointer)] = found;
    expect_refused(parts, field, reason);
  };
  expect_field("/policy", "float", "graph.policy", "exact, gemmlowp, shift");
  expect_field("/inputs", {"nobody"}, "graph.inputs", "nobody");
  expect_field("/outputs", "logits", "graph.outputs", "array of names");
  expect_field("/values/1/grid/scale", "1", "graph.values[1].grid.scale", "number");
  expect_field("/values/1/grid/scale", 1e39, "graph.values[1].grid.scale", "float32");
  expect_field("/values/1/grid/scale", 0.1, "graph.values[1].grid.scale", "float32");
  expect_field("/values/1/grid/quant_max", 15.0, "graph.values[1].grid.quant_max", "integer");
  expect_field("/values/1/grid/quant_max", int64_t{1} << 32, "graph.values[1].grid.quant_max", "must be in");
  expect_field("/values/1/kind", "reals", "graph.values[1].kind", "accumulator");
  expect_field("/values/2/name", "quantize", "graph.values[2].name", "two values");
  expect_field("/nodes/1/kind", "conv3d", "graph.nodes[1].kind", "conv3d");
  expect_field("/nodes/1/name", "conv", "graph.nodes[1].name", "conv");
  expect_field("/nodes/1/inputs", {1}, "graph.nodes[1].inputs", "names");
  expect_field("/nodes/1/window/stride", {1}, "graph.nodes[1].window.stride", "2 integers");
  expect_field("/nodes/1/window", 3, "graph.nodes[1].window", "object");
  expect_field("/nodes/1/weight/bit_width", 9, "graph.nodes[1].weight.bit_width", "[2, 8]");
  expect_field("/nodes/1/weight/bit_width", 5, "'conv2d.weight'", "5 bits take 68 bytes, got 54");
  expect_field("/nodes/1/weight/shape", {4, 3, 3, 4}, "'conv2d.weight'", "72 bytes");
  expect_field("/nodes/1/weight/is_signed", 1, "graph.nodes[1].weight.is_signed", "true or false");
  expect_field("/nodes/1/weight/shape", {1 << 20, 1 << 20, 1 << 20, 1}, "graph.nodes[1].weight.shape", "2^40");
  expect_field("/nodes/1/weight/shape", {1, 1, 1, 1, 1, 1, 1, 1, 1}, "graph.nodes[1].weight.shape", "at most 8");
  expect_field("/nodes", 1, "graph.nodes", "array");

  Parts parts = whole;
  parts.header["__metadata__"]["format"] = "pt";
  expect_refused(parts, "__metadata__.format", "not a checkpoint of an integer network");
  parts = whole;
  parts.header["__metadata__"]["more"] = "x";
  expect_refused(parts, "__metadata__");
  parts = whole;
  parts.header["__metadata__"]["format"] = 1;
  expect_refused(parts, "__metadata__", "strings");
}

// sample_graph() with weights of the other encodings.
Graph encoded_graph() {
  Graph graph = sample_graph();
  Conv2d& conv = operation<Conv2d>(graph, "conv2d");
  const int64_t count = element_count(conv.weight.shape, "weight");
  PiecewiseEncoding pieces{.regions = 3, .has_constant = true};
  pieces.multipliers.assign(6 * 4, 1 << 20);
  pieces.constants = {1, -2, int64_t{1} << 40, -4};
  pieces.shifts.assign(4, 30);
  conv.weight.encoding = pieces;
  for (int64_t i = 0; i < count; ++i) conv.weight.codes[static_cast<size_t>(i)] = static_cast<int16_t>(i * 7 % 48);
  std::replace(conv.weight.codes.begin(), conv.weight.codes.end(), int16_t{8}, int16_t{0});
  conv.bias.clear();
  conv.requantize.multipliers.clear();
  Linear& linear = operation<Linear>(graph, "linear");
  linear.weight.bit_width = 4;
  linear.weight.encoding = PowerOfTwoEncoding{.variable_length = true};
  for (size_t i = 0; i < linear.weight.codes.size(); ++i) {
    linear.weight.codes[i] = static_cast<int16_t>(i % 3 == 0 ? 0 : (i % 2 == 0 ? 1 : -1) * (1 << i % 4));
  }
  return graph;
}

Graph with_code_book() {
  Graph graph = encoded_graph();
  Linear& linear = operation<Linear>(graph, "linear");
  linear.weight.bit_width = 3;
  linear.weight.encoding = CodeBookEncoding{5, {-300, -1, 0, 7, 900}};
  const int16_t levels[] = {7, 0, -300, 900, -1};
  for (size_t i = 0; i < linear.weight.codes.size(); ++i) linear.weight.codes[i] = levels[i % 5];
  return graph;
}

TEST(DamagedCheckpoint, EachByteOfEncodedWeightsChanged) {
  std::mt19937_64 random(11);
  for (const Graph& graph : {encoded_graph(), with_code_book()}) {
    const Bytes whole = to_bytes(graph);
    ASSERT_EQ(from_bytes(whole), graph);
    Bytes file = whole;
    for (size_t i = 0; i < file.size(); ++i) {
      file[i] ^= static_cast<uint8_t>(random() % 255 + 1);
      survives(file);
      file[i] = whole[i];
    }
    for (size_t size = 0; size < whole.size(); size += 1 + random() % 20) {
      ASSERT_TRUE(survives(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)))) << "size " << size;
    }
  }
}

TEST(DamagedCheckpoint, EncodingsAreNamed) {
  const auto expect = [](const Graph& graph, const char* layer, const char* key, const Json& value, const char* field,
                         const char* reason) {
    Parts parts = take_apart(to_bytes(graph));
    for (Json& node : parts.graph["nodes"]) {
      if (node["name"] == layer) node["weight"][key] = value;
    }
    SCOPED_TRACE(fmt::format("{} {}", layer, key));
    expect_error([&] { from_bytes(put_together(parts)); }, field, reason);
  };
  const Graph graph = encoded_graph();
  const Graph book = with_code_book();
  const char* conv = "conv2d";
  const char* linear = "linear";
  expect(graph, conv, "encoding", "piece", ".weight.encoding", "unknown encoding of weights 'piece'");
  expect(graph, conv, "encoding", "uniform", ".weight.is_signed", "missing");
  expect(graph, conv, "regions", 5, ".weight.regions", "[2, 4]");
  expect(graph, conv, "regions", 2, "'conv2d.weight'", "5 bits take");
  expect(graph, conv, "regions", 4, "'conv2d'", "weight.multipliers must have 32 elements, got 24");
  expect(graph, conv, "has_constant", false, "'conv2d'", "weight.multipliers must have 20 elements, got 24");
  expect(graph, conv, "bit_width", 1, ".weight.bit_width", "[2, 8]");
  expect(graph, linear, "bit_width", 6, ".weight.bit_width", "[2, 5]");
  expect(graph, linear, "bit_width", 5, "'linear.weight'", "");
  expect(graph, linear, "variable_length", false, "'linear.weight'", "4 bits take 240 bytes");
  expect(graph, linear, "variable_length", 1, ".weight.variable_length", "true or false");
  expect(graph, linear, "shape", {1 << 20, 1 << 20}, "'linear.weight'", "at least as many bits");
  expect(book, linear, "entries", 9, ".weight.entries", "[2, 8]");
  expect(book, linear, "entries", 4, "'linear.levels'", "1 or 5 tables of 4, got 5 elements");
  expect(book, linear, "shape", {0, 96}, "", "");
  Parts parts = take_apart(to_bytes(book));
  parts.header.erase("linear.levels");
  expect_refused(parts, "");
  parts = take_apart(to_bytes(graph));
  parts.graph["policy"] = "gemmlowp";
  expect_error([&] { from_bytes(put_together(parts)); }, "'conv2d'", "policy exact");
}

TEST(DamagedCheckpoint, FillBitsMustBeZero) {
  Graph graph = sample_graph();
  Linear& linear = operation<Linear>(graph, "linear");
  linear.weight = {
      .shape = {5, 9}, .bit_width = 3, .codes = std::vector<int16_t>(45, -1)};  // 135 bits: one is left over
  Parts parts = take_apart(to_bytes(graph));
  const auto end = parts.header["linear.weight"]["data_offsets"][1].get<size_t>();
  ASSERT_EQ(parts.data[end - 1], 0x7F);
  parts.data[end - 1] = 0xFF;
  expect_refused(parts, "'linear.weight'", "bits after the last code");
}

TEST(DamagedCheckpoint, NewerVersionsAreNamed) {
  Parts parts = take_apart(to_bytes(sample_graph()));
  parts.graph["format_version"] = format_version + 1;
  parts.graph["something_new"] = Json::object();
  parts.graph.erase("values");
  expect_refused(parts, "graph.format_version", "reads versions 1 to 2, the file has version 3");
  for (const Json& version : {Json(0), Json(-1), Json(INT64_MAX), Json("1"), Json(1.5)}) {
    parts.graph["format_version"] = version;
    expect_refused(parts, "graph.format_version");
  }
}

TEST(DamagedCheckpoint, OlderVersionsHaveTheirOwnFields) {
  const Parts newest = take_apart(to_bytes(sample_graph()));
  Parts parts = newest;
  Json& pool = parts.graph["nodes"][3];
  ASSERT_EQ(pool["kind"], "avg_pool2d");
  pool.erase("divisor_override");
  pool.erase("tap_constant");
  Json& slice = parts.graph["nodes"][7];
  ASSERT_EQ(slice["kind"], "slice");
  slice.erase("step");
  expect_refused(parts, "graph.nodes[3].divisor_override", "missing");
  for (const char* layer : {"conv2d", "linear"}) {
    for (Json& node : parts.graph["nodes"]) {
      if (node["kind"] == layer) node["weight"].erase("encoding");
    }
  }
  expect_refused(parts, "weight.encoding", "missing");
  parts.graph["format_version"] = 1;
  Graph graph = sample_graph();
  operation<Slice>(graph, "slice").stop = 5;  // 4 codes, now that the step is 1
  parts.graph["nodes"][7]["stop"] = 5;
  operation<Slice>(graph, "slice").step = 1;
  EXPECT_EQ(from_bytes(put_together(parts)), graph);
  parts = newest;
  parts.graph["format_version"] = 1;
  expect_refused(parts, "graph.nodes[1].weight.encoding", "unknown field");
}

TEST(DamagedCheckpoint, JsonOfBadForm) {
  const Parts whole = take_apart(to_bytes(sample_graph()));
  const auto graph_text = [&](const std::string& text) {
    Parts parts = whole;
    parts.header["__metadata__"]["graph"] = text;
    parts.graph = Json(Json::value_t::discarded);
    return put_together(parts);
  };
  const auto refuses = [](const Bytes& file, const char* reason) {
    expect_error([&] { from_bytes(file); }, "checkpoint", reason);
  };
  refuses(graph_text(std::string(200000, '[')), "nests deeper than 16");
  refuses(graph_text("{\"format_version\":1,\"format_version\":1}"), "repeats a key");
  refuses(graph_text("{\"format_version\":1e999}"), "not valid JSON");
  refuses(graph_text("{\"format_version\":1} x"), "not valid JSON");
  refuses(graph_text(""), "not valid JSON");
  refuses(graph_text("[]"), "must be an object");
  refuses(with_header("{" + std::string(100000, '{'), {}), "not valid JSON");
  refuses(with_header("{\"a\":" + std::string(100000, '['), {}), "nests deeper than 16");
  refuses(with_header("{}", {}), "__metadata__.format");
  refuses(with_header("{\"__metadata__\":[]}", {}), "__metadata__: must be an object");
  refuses(with_header("[]", {}), "must be a JSON object");
  refuses(with_header("{\"\xFF\":1}", {}), "not valid JSON");
  // Many keys: look-ups must not become quadratic.
  std::string many = "{";
  for (int i = 0; i < 200000; ++i) many += fmt::format("\"k{}\":0,", i);
  refuses(with_header(many + "\"a\":0}", {}), "must be an object with dtype");
}

}  // namespace
}  // namespace qstep::test
