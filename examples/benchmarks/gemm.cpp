// Every row of the table of matrix product kernels, on one thread: few rows and many, several bit widths.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/gemm/gemm.h"
#include "qstep/kernels/isa.h"

namespace {

using namespace qstep::kernels;

struct Product {
  int64_t rows;
  int64_t columns;
  int64_t depth;
};

constexpr Product products[] = {{1, 1000, 2048}, {1, 4096, 4096}, {4, 4096, 4096}, {96, 256, 256}, {96, 512, 2304}};

struct BitWidths {
  int activations;
  int weights;
};

constexpr BitWidths bit_widths[] = {{8, 8}, {8, 7}, {8, 4}, {4, 4}, {2, 2}};

/// Normally distributed, as the weights of a trained layer; the largest magnitude is about 3.5 deviations.
std::vector<int16_t> random_weights(size_t count, int bits) {
  const double half = 1 << (bits - 1);
  std::mt19937 generator(0);
  std::normal_distribution<double> distribution(0, half / 3.5);
  std::vector<int16_t> weights(count);
  for (int16_t& w : weights) {
    w = static_cast<int16_t>(std::lround(std::clamp(distribution(generator), -half, half - 1)));
  }
  return weights;
}

void run(benchmark::State& state, const GemmKernel& kernel, const Product& product, BitWidths bits) {
  const std::vector<int16_t> weights =
      random_weights(static_cast<size_t>(product.columns * product.depth), bits.weights);
  const std::vector<int32_t> bias(static_cast<size_t>(product.columns), 0);
  const qstep::core::Multiplier multipliers[] = {qstep::core::exact_multiplier(0.001)};
  const GemmProblem problem{.depth = product.depth,
                            .columns = product.columns,
                            .quant_max = (1 << bits.activations) - 1,
                            .weights = weights,
                            .bias = bias,
                            .requantization = {.multipliers = multipliers}};
  if (!is_supported(kernel.isa) || !kernel.supports(problem)) {
    state.SkipWithError("not for this CPU or these weights");
    return;
  }

  std::mt19937 generator(1);
  std::vector<uint8_t> input(static_cast<size_t>(product.rows * product.depth));
  for (uint8_t& code : input) code = static_cast<uint8_t>(generator() & static_cast<unsigned>(problem.quant_max));
  std::vector<uint8_t> output(static_cast<size_t>(product.rows * product.columns));
  const auto packed = kernel.pack(problem);
  AlignedVector<std::byte> scratch(packed->scratch_bytes(product.rows));
  const GemmArguments arguments{input.data(), product.rows, product.depth, {.codes = output.data()}, product.columns};
  const Range all{0, packed->work_items(product.rows)};
  for (auto _ : state) {
    packed->run(arguments, all, scratch.data());
    benchmark::DoNotOptimize(output.data());
  }

  const auto operations = static_cast<double>(product.rows * product.columns * product.depth);
  state.counters["MAC/s"] = benchmark::Counter(operations, benchmark::Counter::kIsIterationInvariantRate);
}

}  // namespace

int main(int argc, char** argv) {
  for (const Product& product : products) {
    for (const BitWidths bits : bit_widths) {
      for (const GemmKernel& kernel : gemm_kernels()) {
        if (kernel.isa == Isa::reference) continue;
        const std::string name = std::to_string(product.rows) + "x" + std::to_string(product.columns) + "x" +
                                 std::to_string(product.depth) + "/a" + std::to_string(bits.activations) + "w" +
                                 std::to_string(bits.weights) + "/" + std::string(kernel.name);
        benchmark::RegisterBenchmark(name.c_str(), run, kernel, product, bits)->Unit(benchmark::kMicrosecond);
      }
    }
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
