// Every row of the table of convolution kernels, on one thread, over layers of ResNet and MobileNet and several bit widths.
// "of_peak" compares with the instruction set's own peak (kernels/peak/peak.h).
#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/conv2d/conv2d.h"
#include "qstep/kernels/isa.h"
#include "qstep/kernels/peak/peak.h"

namespace {

using namespace qstep::kernels;

struct Layer {
  const char* name;
  int64_t in_channels;
  int64_t out_channels;
  int64_t groups;
  int32_t kernel;
  int32_t stride;
  int64_t size;  ///< height and width of the input

  int64_t output_size() const { return (size - 1) / stride + 1; }  // padded by half of an odd kernel
};

constexpr Layer layers[] = {
    {"3x3_64_to_64_at_56", 64, 64, 1, 3, 1, 56},
    {"3x3_128_to_128_at_28", 128, 128, 1, 3, 1, 28},
    {"3x3_256_to_256_at_14", 256, 256, 1, 3, 1, 14},
    {"3x3_512_to_512_at_7", 512, 512, 1, 3, 1, 7},
    {"3x3_16_to_16_at_32", 16, 16, 1, 3, 1, 32},
    {"3x3_32_to_32_at_16", 32, 32, 1, 3, 1, 16},
    {"3x3_64_to_64_at_8", 64, 64, 1, 3, 1, 8},
    {"3x3_128_to_128_at_56_by_2", 128, 128, 1, 3, 2, 56},
    {"1x1_64_to_256_at_56", 64, 256, 1, 1, 1, 56},
    {"1x1_256_to_64_at_56", 256, 64, 1, 1, 1, 56},
    {"1x1_1024_to_256_at_14", 1024, 256, 1, 1, 1, 14},
    {"1x1_512_to_2048_at_7", 512, 2048, 1, 1, 1, 7},
    {"1x1_24_to_144_at_56", 24, 144, 1, 1, 1, 56},
    {"stem_7x7_3_to_64_at_224", 3, 64, 1, 7, 2, 224},
    {"stem_3x3_3_to_32_at_224", 3, 32, 1, 3, 2, 224},
    {"depthwise_3x3_144_at_56", 144, 144, 144, 3, 1, 56},
    {"depthwise_3x3_144_at_56_by_2", 144, 144, 144, 3, 2, 56},
    {"depthwise_3x3_384_at_14", 384, 384, 384, 3, 1, 14},
    {"depthwise_5x5_120_at_28", 120, 120, 120, 5, 1, 28},
};

struct BitWidths {
  int activations;
  int weights;
};

constexpr BitWidths bit_widths[] = {{8, 8}, {8, 4}, {4, 4}, {2, 2}};

template <class T>
std::vector<T> random_integers(size_t count, int low, int high) {
  std::mt19937 generator(0);
  std::uniform_int_distribution<int> distribution(low, high);
  std::vector<T> result(count);
  for (T& value : result) value = static_cast<T>(distribution(generator));
  return result;
}

void run(benchmark::State& state, const Conv2dKernel& kernel, const Layer& layer, BitWidths bits) {
  const int64_t depth = int64_t{layer.kernel} * layer.kernel * layer.in_channels / layer.groups;
  const int half = 1 << (bits.weights - 1);
  const auto weights = random_integers<int16_t>(static_cast<size_t>(layer.out_channels * depth), -half, half - 1);
  const std::vector<int32_t> bias(static_cast<size_t>(layer.out_channels), 0);
  const qstep::core::Multiplier multipliers[] = {qstep::core::exact_multiplier(0.001)};
  const int32_t quant_max = (1 << bits.activations) - 1;
  const int32_t padding = layer.kernel / 2;

  Conv2dProblem problem{.in_channels = layer.in_channels, .out_channels = layer.out_channels, .groups = layer.groups};
  problem.window = {.kernel = {layer.kernel, layer.kernel},
                    .stride = {layer.stride, layer.stride},
                    .padding = {padding, padding, padding, padding}};
  problem.quant_max = quant_max;
  problem.weights = weights;
  problem.bias = bias;
  problem.requantization = {.multipliers = multipliers, .clamp_max = quant_max};
  if (!is_supported(kernel.isa) || !kernel.supports(problem)) {
    state.SkipWithError("not for this CPU or this layer");
    return;
  }

  const ImageLayout input_layout = ImageLayout::dense(1, layer.size, layer.size, layer.in_channels);
  const ImageLayout output_layout = ImageLayout::dense(1, layer.output_size(), layer.output_size(), layer.out_channels);
  const auto input =
      random_integers<uint8_t>(static_cast<size_t>(layer.size * layer.size * layer.in_channels), 0, quant_max);
  std::vector<uint8_t> output(static_cast<size_t>(output_layout.pixels() * layer.out_channels));
  const auto packed = kernel.pack(problem);
  AlignedVector<std::byte> scratch(packed->scratch_bytes(output_layout));
  const Conv2dArguments arguments{input.data(), input_layout, {.codes = output.data()}, output_layout};
  const Range all{0, packed->work_items(output_layout)};
  for (auto _ : state) {
    packed->run(arguments, all, scratch.data());
    benchmark::DoNotOptimize(output.data());
  }

  const auto operations = static_cast<double>(output_layout.pixels() * layer.out_channels * depth);
  state.counters["MAC/s"] = benchmark::Counter(operations, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["of_peak"] =
      benchmark::Counter(operations / measure_peak(kernel.isa), benchmark::Counter::kIsIterationInvariantRate);
}

}  // namespace

int main(int argc, char** argv) {
  for (const Layer& layer : layers) {
    for (const BitWidths bits : bit_widths) {
      for (const Conv2dKernel& kernel : conv2d_kernels()) {
        const std::string name = std::string(layer.name) + "/a" + std::to_string(bits.activations) + "w" +
                                 std::to_string(bits.weights) + "/" + std::string(kernel.name);
        benchmark::RegisterBenchmark(name.c_str(), run, kernel, layer, bits)->Unit(benchmark::kMicrosecond);
      }
    }
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
