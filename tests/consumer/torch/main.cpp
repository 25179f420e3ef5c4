// Trains a two-layer network with LSQ+ in C++, converts it, compares every code, and writes the checkpoint named in argv[1].
#include <qstep/qstep.h>
#include <torch/torch.h>

#include <cstdio>
#include <exception>

namespace nn = qstep::nn;

struct NetImpl : torch::nn::Module {
  explicit NetImpl(const qstep::QConfig& config) {
    input = register_module("input", nn::Quantize(config.with_bits(8, 8)));
    conv =
        register_module("conv", nn::Conv2d(nn::Conv2dOptions(1, 8, 3).stride(2).padding(1).batch_norm(true).relu(true),
                                           config, input->output()));
    fc = register_module("fc", nn::Linear(nn::LinearOptions(8 * 6 * 6, 4).last(true), config, conv->output()));
  }

  torch::Tensor forward(const torch::Tensor& x) { return fc->forward(conv->forward(input->forward(x)).flatten(1)); }

  nn::Quantize input{nullptr};
  nn::Conv2d conv{nullptr};
  nn::Linear fc{nullptr};
};
TORCH_MODULE(Net);

// Which quarter of the image is brightest.
std::pair<torch::Tensor, torch::Tensor> batch_of(int64_t size) {
  torch::Tensor x = torch::rand({size, 1, 12, 12}) * 0.5;
  const torch::Tensor y = torch::randint(4, {size});
  for (int64_t i = 0; i < size; ++i) {
    const int64_t quarter = y[i].item<int64_t>();
    x[i][0].narrow(0, 6 * (quarter / 2), 6).narrow(1, 6 * (quarter % 2), 6) += 0.2;
  }
  return {x, y};
}

int run(const char* path) {
  torch::manual_seed(7);
  Net net(qstep::QConfig::lsq_plus({.weight_bits = 4, .act_bits = 4}));
  const auto forward = [&](const torch::Tensor& x) { return net->forward(x); };
  qstep::calibrate(*net, forward, {batch_of(64).first});

  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.05).momentum(0.9));
  for (int step = 0; step < 150; ++step) {
    const auto [x, y] = batch_of(32);
    optimizer.zero_grad();
    torch::nn::functional::cross_entropy(net->forward(x), y).backward();
    optimizer.step();
  }

  const qstep::ir::Graph graph = qstep::lower(
      [&](qstep::ir::Builder& b, qstep::ir::ValueId x) {
        x = net->conv->lower(b, "conv", {net->input->lower(b, "input", {x})});
        return net->fc->lower(b, "fc", {b.reshape("flatten", x, {0, -1})});
      },
      {1, 1, 12, 12});
  const qstep::engine::IntegerNetwork integers(graph);
  const auto [x, y] = batch_of(200);
  const qstep::Comparison result = qstep::compare(*net, forward, integers, x);
  net->eval();
  const torch::NoGradGuard no_grad;
  const double accuracy = net->forward(x).argmax(1).eq(y).to(torch::kFloat).mean().item<double>();
  std::printf("accuracy %.3f, %lld differing codes of %lld in %zu layers\n", accuracy,
              static_cast<long long>(result.differing_codes()), static_cast<long long>(result.total_codes()),
              result.layers.size());
  qstep::ir::save(graph, path);
  return accuracy > 0.9 && result.differing_codes() == 0 && result.layers.size() == 3 ? 0 : 1;
}

int main(int argc, char** argv) {
  if (argc != 2) return std::puts("usage: consumer_torch CHECKPOINT"), 2;
  try {
    return run(argv[1]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
