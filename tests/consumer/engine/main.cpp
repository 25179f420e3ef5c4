// Runs a checkpoint on zeros, without torch, and prints a checksum of the codes of every layer:  consumer FILE
#include <qstep/engine.h>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <map>
#include <numeric>
#include <string>
#include <variant>
#include <vector>

namespace {

std::vector<std::vector<float>> zeros(const qstep::ir::Graph& graph) {
  std::vector<std::vector<float>> result;
  for (const qstep::ir::ValueId id : graph.inputs) {
    const qstep::ir::Shape& shape = graph.values[id].shape;
    result.emplace_back(std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>()), 0.0F);
  }
  return result;
}

uint64_t checksum(const std::map<std::string, qstep::engine::Tensor>& layers) {
  uint64_t sum = 0;
  for (const auto& [name, tensor] : layers) {
    std::visit(
        [&](const auto& data) {
          for (const auto code : data) sum = 31 * sum + static_cast<uint64_t>(code);
        },
        tensor.data);
  }
  return sum;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: consumer FILE\n");
    return 2;
  }
  try {
    const qstep::engine::IntegerNetwork network(qstep::ir::load(argv[1]));
    const std::vector<std::vector<float>> data = zeros(network.structure());
    std::vector<qstep::engine::Input> inputs;
    for (size_t i = 0; i < data.size(); ++i) {
      inputs.push_back({network.structure().values[network.structure().inputs[i]].shape, data[i].data()});
    }
    const auto layers = network.capture(inputs);
    std::printf("%zu layers on %s, checksum %016llx\n", layers.size(), std::string(network.isa()).c_str(),
                static_cast<unsigned long long>(checksum(layers)));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
