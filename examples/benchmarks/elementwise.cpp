// Pooling, addition, table lookup and quantization: every row of their tables, on one thread, next to a copy of as many
// bytes. Bytes count once for each operand read and each result written.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "qstep/kernels/elementwise/bilinear.h"
#include "qstep/kernels/elementwise/lookup.h"
#include "qstep/kernels/elementwise/quantize.h"
#include "qstep/kernels/pool/pool.h"

namespace {

using namespace qstep::kernels;

struct Image {
  int64_t size;  ///< height and width
  int64_t channels;

  ImageLayout layout() const { return ImageLayout::dense(1, size, size, channels); }
  int64_t values() const { return size * size * channels; }
  std::string name() const { return std::to_string(channels) + "_at_" + std::to_string(size); }
};

std::vector<uint8_t> random_codes(int64_t count) {
  std::mt19937 generator(0);
  std::vector<uint8_t> codes(static_cast<size_t>(count));
  for (uint8_t& code : codes) code = static_cast<uint8_t>(generator());
  return codes;
}

/// Repeats body(), which moves `bytes`.
template <class Body>
void measure(benchmark::State& state, int64_t bytes, Body body) {
  for (auto _ : state) {
    body();
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * bytes);
}

template <class Body>
void add(const std::string& name, Body body) {
  benchmark::RegisterBenchmark(name.c_str(), body)->Unit(benchmark::kMicrosecond);
}

/// One benchmark for each row that this CPU runs and that takes the problem: body(row, state).
template <class Table, class Problem, class Body>
void add_rows(const Table& table, const Problem& problem, const std::string& name, Body body) {
  for (const auto& kernel : table) {
    if (!is_supported(kernel.isa) || !kernel.supports(problem)) continue;
    add(name + "/" + std::string(kernel.name), [=](benchmark::State& state) { body(kernel, state); });
  }
}

void add_copies(const Image& image) {
  add("copy_" + image.name(), [=](benchmark::State& state) {
    const auto input = random_codes(image.values());
    std::vector<uint8_t> output(input.size());
    measure(state, 2 * image.values(), [&] { std::memcpy(output.data(), input.data(), input.size()); });
  });
}

template <class Table, class Problem>
void add_pools(const Table& table, const Problem& problem, const std::string& name, const Image& in, const Image& out) {
  add_rows(table, problem, name + "_" + in.name(), [=](const auto& kernel, benchmark::State& state) {
    const auto input = random_codes(in.values());
    std::vector<uint8_t> output(static_cast<size_t>(out.values()));
    const PoolArguments arguments{input.data(), in.layout(), output.data(), out.layout()};
    measure(state, in.values() + out.values(), [&] { kernel.run(problem, arguments, {0, out.size}); });
  });
}

void add_bilinear(const BilinearProblem& problem, const std::string& name, const Image& image) {
  add_rows(bilinear_kernels(), problem, name + "_" + image.name(), [=](const auto& kernel, benchmark::State& state) {
    const auto a = random_codes(image.values());
    const auto b = random_codes(image.values());
    std::vector<uint8_t> output(a.size());
    const BilinearArguments arguments{a.data(), image.layout(), b.data(),      image.layout(),
                                      1,        output.data(),  image.layout()};
    measure(state, 3 * image.values(), [&] { kernel.run(problem, arguments, {0, image.size}); });
  });
}

void add_lookup(int32_t entries, const Image& image) {
  LookupProblem problem{.entries = entries};
  std::iota(problem.table.begin(), problem.table.end(), uint8_t{0});
  add_rows(lookup_kernels(), problem, "lookup_" + std::to_string(entries) + "_" + image.name(),
           [=](const auto& kernel, benchmark::State& state) {
             auto input = random_codes(image.values());
             for (uint8_t& code : input) code = static_cast<uint8_t>(code % entries);
             std::vector<uint8_t> output(input.size());
             const LookupArguments arguments{input.data(), image.layout(), output.data(), image.layout()};
             measure(state, 2 * image.values(), [&] { kernel.run(problem, arguments, {0, image.size}); });
           });
}

void add_borders(const Image& image) {
  const qstep::core::Grid grid{.scale = 0.02F, .zero_point = 100, .quant_min = 0, .quant_max = 255};
  const auto floats = static_cast<size_t>(image.values());
  for (const int64_t stride : {int64_t{1}, image.channels}) {
    const std::string suffix = "_stride_" + std::to_string(stride) + "_" + image.name();
    const int64_t count = image.values() / stride;
    add_rows(quantize_kernels(), grid, "quantize" + suffix, [=](const auto& kernel, benchmark::State& state) {
      std::vector<float> input(floats, 0.5F);
      std::vector<uint8_t> output(floats);
      measure(state, 5 * image.values(), [&] {
        for (int64_t c = 0; c < stride; ++c) {
          kernel.run(input.data() + c * count, count, grid, output.data() + c, stride);
        }
      });
    });
    add_rows(dequantize_kernels(), grid, "dequantize" + suffix, [=](const auto& kernel, benchmark::State& state) {
      const auto input = random_codes(image.values());
      std::vector<float> output(floats);
      measure(state, 5 * image.values(), [&] {
        for (int64_t c = 0; c < stride; ++c) {
          kernel.run(input.data() + c, stride, count, grid, output.data() + c * count);
        }
      });
    });
  }
}

}  // namespace

int main(int argc, char** argv) {
  constexpr Image images[] = {{14, 256}, {56, 64}};
  for (const Image& image : images) {
    add_copies(image);
    add_bilinear({.left = 9'000'001, .right = 12'345'678, .constant = 77'777, .shift = 25}, "add", image);
    add_bilinear({.product = 12'345'678, .shift = 31}, "multiply", image);
    add_bilinear({.left = 1, .right = 2, .shift = 1}, "add", image);
    for (const int32_t entries : {16, 64, 256}) add_lookup(entries, image);
  }
  add_borders({224, 3});
  const qstep::core::Window three_by_three{.kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1, 1, 1}};
  add_pools(max_pool2d_kernels(), MaxPool2dProblem{three_by_three}, "max_3x3", {112, 64}, {56, 64});
  const AvgPool2dProblem global{.adaptive = true, .multiplier = (1 << 24) - 1, .shift = 24};
  for (const int64_t channels : {512, 1280, 2048}) {
    add_pools(avg_pool2d_kernels(), global, "average", {7, channels}, {1, channels});
  }
  const AvgPool2dProblem two_by_two{
      .window = {.kernel = {2, 2}, .stride = {2, 2}}, .multiplier = (1 << 24) - 1, .shift = 24};
  add_pools(avg_pool2d_kernels(), two_by_two, "average_2x2", {56, 64}, {28, 64});
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
