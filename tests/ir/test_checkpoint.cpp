// What is written is read back, byte for byte, and files are replaced whole or not at all.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <set>
#include <string>

#include "ir/expect_error.h"
#include "ir/random_graph.h"
#include "ir/sample_graph.h"
#include "qstep/ir/bit_packing.h"
#include "qstep/ir/checkpoint.h"
#include "qstep/ir/weight_storage.h"

namespace qstep::test {
namespace {

using namespace qstep::ir;
namespace fs = std::filesystem;

std::string describe(const Weight& weight) {
  const std::string options = std::visit(
      [&]<class Encoding>(const Encoding& e) -> std::string {
        if constexpr (std::is_same_v<Encoding, UniformEncoding>) return e.is_signed ? "signed" : "unsigned";
        if constexpr (std::is_same_v<Encoding, PowerOfTwoEncoding>) return e.variable_length ? "variable" : "fixed";
        if constexpr (std::is_same_v<Encoding, CodeBookEncoding>)
          return e.levels.size() == static_cast<size_t>(e.entries) ? "one table" : "many tables";
        if constexpr (std::is_same_v<Encoding, PiecewiseEncoding>)
          return fmt::format("{} regions{}", e.regions, e.has_constant ? ", constants" : "");
      },
      weight.encoding);
  return fmt::format("{} bits {} {}", weight.bit_width, encoding_name(weight.encoding), options);
}

TEST(Checkpoint, RandomGraphsComeBackEqual) {
  std::set<std::string> kinds;
  std::set<std::string> encodings;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    std::mt19937_64 random(seed);
    const Graph graph = random_graph(random, 14);
    const std::vector<uint8_t> bytes = to_bytes(graph);
    const Graph back = from_bytes(bytes);
    ASSERT_EQ(back, graph);
    ASSERT_EQ(to_bytes(back), bytes);
    for (const Node& node : graph.nodes) {
      kinds.insert(kind_name(node.operation));
      if (const auto* conv = std::get_if<Conv2d>(&node.operation)) encodings.insert(describe(conv->weight));
      if (const auto* linear = std::get_if<Linear>(&node.operation)) encodings.insert(describe(linear->weight));
    }
  }
  EXPECT_EQ(kinds.size(), std::variant_size_v<Operation>);
  // Of 80: 2..8 bits, signed or not; 2..5 bits, of variable length or not; 1..8 bits, one table or many; 2..8 bits, 2..4
  // regions, with constants or not.
  EXPECT_GT(encodings.size(), 70U);
}

// Written by qstep 0.1.0 when weights were always uniform and nothing was padded.
TEST(Checkpoint, FilesOfVersion1AreRead) {
  EXPECT_EQ(load(fs::path(QSTEP_TEST_FILES) / "version1.safetensors"), sample_graph_of_version_1());
}

TEST(Checkpoint, KeepsExtremeNumbers) {
  Graph graph = sample_graph();
  for (const float number : {1e-45F, 1.17549435e-38F, 0.1F, 16777217.0F, 3.4028235e38F}) {
    value(graph, "quantize").grid.scale = number;
    value(graph, "quantize").grid.offset = -number;
    EXPECT_EQ(from_bytes(to_bytes(graph)), graph) << number;
  }
  value(graph, "quantize").grid.offset = -0.0F;
  value(graph, "linear").scales = {5e-324, -0.0, 1.7976931348623157e308, 0.1, 1.0 / 3};
  operation<Linear>(graph, "linear").bias = {INT32_MAX / 2, INT32_MIN / 2, -1, 0, 1};
  operation<AvgPool2d>(graph, "avg_pool2d").constant = -(int64_t{1} << 58);
  const Graph back = from_bytes(to_bytes(graph));
  EXPECT_EQ(back, graph);
  EXPECT_TRUE(std::signbit(back.values[1].grid.offset));
}

TEST(Checkpoint, KeepsNamesInUtf8AndRefusesOthers) {
  Graph graph = sample_graph();
  const std::string name = "Schicht \"1\"\\ \xE5\xB1\xA4\n";
  node(graph, "conv2d").name = name;
  value(graph, "conv2d").name = name;
  EXPECT_EQ(from_bytes(to_bytes(graph)), graph);
  node(graph, name).name = "\xFF";
  value(graph, name).name = "\xFF";
  expect_error([&] { to_bytes(graph); }, "UTF-8");
}

// The stream of docs/format.md, written out by hand.
TEST(BitPacking, FillsBytesFromTheLowestBit) {
  EXPECT_EQ(pack_bits(std::vector<int16_t>{1, -2, -1, 0, 1}, 2), (std::vector<uint8_t>{0b00'11'10'01, 0b01}));
  EXPECT_EQ(pack_bits(std::vector<int16_t>{1, 2, 7, 4, 5}, 3), (std::vector<uint8_t>{0b11'010'001, 0b0'101'100'1}));
  EXPECT_EQ(pack_bits(std::vector<int16_t>{-128, 127, -1}, 8), (std::vector<uint8_t>{0x80, 0x7F, 0xFF}));
  EXPECT_EQ(pack_bits(std::vector<int16_t>{}, 5), std::vector<uint8_t>{});
}

TEST(BitPacking, UnpacksWhatAnotherRuleReads) {
  std::mt19937_64 random(1);
  for (int32_t bits = 2; bits <= 8; ++bits) {
    for (const int64_t count : {0, 1, 2, 3, 7, 8, 9, 31, 100}) {
      std::vector<uint8_t> bytes(static_cast<size_t>(packed_size(count, bits)));
      for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
      for (const bool is_signed : {false, true}) {
        const std::vector<int16_t> codes = unpack_bits(bytes, count, bits, is_signed);
        ASSERT_EQ(static_cast<int64_t>(codes.size()), count);
        for (int64_t i = 0; i < count; ++i) {  // bit by bit
          int expected = 0;
          for (int32_t b = 0; b < bits; ++b) {
            const int64_t position = i * bits + b;
            const int bit = bytes[static_cast<size_t>(position / 8)] >> (position % 8) & 1;
            expected += bit * (1 << b) * (is_signed && b == bits - 1 ? -1 : 1);
          }
          ASSERT_EQ(codes[static_cast<size_t>(i)], expected) << bits << " bits, code " << i;
        }
      }
    }
  }
}

// --- encodings: what docs/format.md, section 6, shows, written out by hand ------------------------------------------------

Weight row(int32_t bit_width, WeightEncoding encoding, std::vector<int16_t> codes) {
  return {.shape = {1, static_cast<int64_t>(codes.size())},
          .bit_width = bit_width,
          .encoding = std::move(encoding),
          .codes = std::move(codes)};
}

using Bytes = std::vector<uint8_t>;

TEST(StoredWeights, PowersOfTwo) {
  // Of 4 bits: a flag, a sign and how many powers below the largest, 8.
  const std::vector<int16_t> levels = {0, 8, -8, 1, -2, 4};
  const Weight fixed = row(4, PowerOfTwoEncoding{}, levels);
  EXPECT_EQ(store_codes(fixed), (Bytes{0b1000'0000, 0b1011'1100, 0b1001'1110}));
  const Weight variable = row(4, PowerOfTwoEncoding{.variable_length = true}, levels);
  EXPECT_EQ(store_codes(variable), (Bytes{0b001'0001'0, 0b101'0111'1, 0b0011'1}));  // 0, 8, -8 | -8, 1, -2 | -2, 4
  EXPECT_EQ(table_bytes(fixed), 0);
  // 5 bits reach 128; 2 bits have a flag and a sign alone.
  EXPECT_EQ(store_codes(row(5, PowerOfTwoEncoding{}, {128, -1})), (Bytes{0b111'10000, 0b0000'0011}));
  EXPECT_EQ(store_codes(row(2, PowerOfTwoEncoding{}, {0, 1, -1})), (Bytes{0b11'10'00}));
  EXPECT_EQ(store_codes(row(2, PowerOfTwoEncoding{.variable_length = true}, {0, 1, -1})), (Bytes{0b11'01'0}));
}

TEST(StoredWeights, CodeBooks) {
  const Weight shared = row(3, CodeBookEncoding{5, {-300, -1, 0, 7, 900}}, {900, 0, -300, 7});
  EXPECT_EQ(store_codes(shared), (Bytes{0b00'010'100, 0b0000'0110}));
  EXPECT_EQ(table_bytes(shared), 5 * 2);
  const Weight many{
      .shape = {2, 2}, .bit_width = 1, .encoding = CodeBookEncoding{2, {-1, 1, 0, 5}}, .codes = {1, -1, 5, 5}};
  EXPECT_EQ(store_codes(many), (Bytes{0b1101}));
}

TEST(StoredWeights, Piecewise) {
  // 3 bits: a sign and a magnitude up to 3; two bits more for three regions.
  const PiecewiseEncoding pieces{.regions = 3, .multipliers = {}, .constants = {}, .shifts = {}};
  EXPECT_EQ(store_codes(row(3, pieces, {0b10'1'11, 0b01'0'00, 0b01'1'00})), (Bytes{0b000'10111, 0b0'01100'01}));
}

TEST(StoredWeights, ComeBackOrAreRefused) {
  const auto refuses = [](const Weight& like, const Bytes& stream, const char* reason) {
    Weight weight = like;
    expect_error([&] { restore_codes(stream, static_cast<int64_t>(like.codes.size()), weight, "weight"); },
                 "weight: ", reason);
  };
  const Weight fixed = row(4, PowerOfTwoEncoding{}, {0, 8, -8});
  const Weight variable = row(4, PowerOfTwoEncoding{.variable_length = true}, {0, 8, -8});  // 9 bits
  const Weight book = row(3, CodeBookEncoding{5, {-2, -1, 0, 1, 2}}, {2, 0});
  for (const Weight& weight : {fixed, variable, book}) {
    Weight back = weight;
    back.codes.clear();
    restore_codes(store_codes(weight), static_cast<int64_t>(weight.codes.size()), back, "weight");
    EXPECT_EQ(back, weight);
  }
  refuses(fixed, {0b0000'0001, 0}, "there is no code 1");
  refuses(fixed, {0b0100'0000, 0}, "there is no code 4");
  refuses(fixed, {0}, "take 2 bytes, got 1");
  refuses(fixed, {0, 0b0001'0000}, "bits after the last code must be 0");
  refuses(variable, {}, "at least as many bits");
  refuses(variable, {0b1111'1111}, "ends before the last of 3");
  refuses(variable, {0b001'0'0001}, "ends before the last of 3");
  refuses(variable, {0, 0}, "1 bytes follow the last weight");
  refuses(variable, {0b0000'1000}, "bits after the last code must be 0");
  refuses(book, {0b00'101'000}, "index must be below 5, got 5");
}

TEST(Checkpoint, TakesItsTrueSize) {
  Graph graph = sample_graph();
  const auto size_at = [&](int32_t bits) {
    Linear& linear = operation<Linear>(graph, "linear");
    linear.weight = {.shape = {5, 4096}, .bit_width = bits, .codes = std::vector<int16_t>(5 * 4096, 1)};
    return static_cast<int64_t>(to_bytes(graph).size());
  };
  EXPECT_NEAR(static_cast<double>(size_at(8) - size_at(4)), 5 * 4096 / 2, 16);
  EXPECT_NEAR(static_cast<double>(size_at(4) - size_at(2)), 5 * 4096 / 4, 16);
  EXPECT_NEAR(static_cast<double>(size_at(3) - size_at(2)), 5 * 4096 / 8, 16);
}

// --- files -----------------------------------------------------------------------------------------------------------

class CheckpointFile : public testing::Test {
 protected:
  void SetUp() override {
    std::string folder = (fs::temp_directory_path() / "qstep-test-XXXXXX").string();
    ASSERT_NE(::mkdtemp(folder.data()), nullptr);
    folder_ = folder;
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::set<std::string> files() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) names.insert(entry.path().filename());
    return names;
  }

  fs::path folder_;
};

TEST_F(CheckpointFile, IsReplacedWhole) {
  const fs::path path = folder_ / "net.safetensors";
  Graph graph = sample_graph();
  save(graph, path);
  EXPECT_EQ(load(path), graph);
  operation<Conv2d>(graph, "conv2d").bias[0] = 1234;
  save(graph, path);
  EXPECT_EQ(load(path), graph);
  EXPECT_EQ(files(), std::set<std::string>{"net.safetensors"});
  fs::create_symlink("net.safetensors", folder_ / "link");
  operation<Conv2d>(graph, "conv2d").bias[0] = 4321;
  save(graph, folder_ / "link");
  EXPECT_EQ(load(path), graph);
  EXPECT_TRUE(fs::is_symlink(folder_ / "link"));
}

TEST_F(CheckpointFile, TakesTheUsersMask) {
  const mode_t old = ::umask(027);
  save(sample_graph(), folder_ / "net");
  ::umask(old);
  EXPECT_EQ(fs::status(folder_ / "net").permissions(), static_cast<fs::perms>(0640));
}

TEST_F(CheckpointFile, WorksInTheCurrentFolder) {
  const fs::path before = fs::current_path();
  fs::current_path(folder_);
  save(sample_graph(), "net");
  EXPECT_EQ(load("net"), sample_graph());
  fs::current_path(before);
}

TEST_F(CheckpointFile, UnwritablePathsAreNamed) {
  const Graph graph = sample_graph();
  expect_error([&] { save(graph, folder_ / "missing" / "net"); }, "missing/net", "No such file or directory");
  expect_error([&] { save(graph, folder_); }, folder_.string(), "not a regular file");
  expect_error([&] { save(graph, "/dev/full"); }, "/dev/full", "not a regular file");
  expect_error([&] { save(graph, "/proc/net"); }, "/proc/net");
  expect_error([&] { save(graph, folder_ / std::string(300, 'n')); }, "File name too long");
  std::ofstream(folder_ / "file") << "x";
  expect_error([&] { save(graph, folder_ / "file" / "net"); }, "file/net", "Not a directory");
  EXPECT_EQ(files(), std::set<std::string>{"file"});
}

// A real limit of the system stands in for the full disk: write() stores a part and then fails.
TEST_F(CheckpointFile, AFullDiskLeavesTheOldFile) {
  const fs::path path = folder_ / "net";
  const Graph old_graph = sample_graph();
  save(old_graph, path);
  const auto size = static_cast<rlim_t>(fs::file_size(path));

  Graph graph = old_graph;
  operation<Conv2d>(graph, "conv2d").bias[0] = 99;
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  for (const rlim_t limit : {rlim_t{0}, rlim_t{1}, size / 2, size - 1}) {
    const struct rlimit tight { limit, before.rlim_max };
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &tight), 0);
    const std::string message = error_of([&] { save(graph, path); });
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
    EXPECT_NE(message.find("File too large"), std::string::npos) << message;
    EXPECT_NE(message.find(path.string()), std::string::npos) << message;
    EXPECT_EQ(load(path), old_graph);
    EXPECT_EQ(files(), std::set<std::string>{"net"});
  }
  ::signal(SIGXFSZ, handler);
  save(graph, path);
  EXPECT_EQ(load(path), graph);
}

TEST_F(CheckpointFile, UnreadablePathsAreNamed) {
  expect_error([&] { load(folder_ / "missing"); }, "missing", "No such file or directory");
  expect_error([&] { load(folder_); }, folder_.string(), "not a regular file");
  expect_error([&] { load("/dev/zero"); }, "/dev/zero", "not a regular file");
  ASSERT_EQ(::mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  expect_error([&] { load(folder_ / "pipe"); }, "pipe", "not a regular file");
  std::ofstream(folder_ / "empty");
  expect_error([&] { load(folder_ / "empty"); }, "empty", "header length");
  std::ofstream sparse(folder_ / "sparse");
  sparse.close();
  fs::resize_file(folder_ / "sparse", uint64_t{1} << 40);
  expect_error([&] { load(folder_ / "sparse"); }, "sparse", "bytes are supported");
}

}  // namespace
}  // namespace qstep::test
