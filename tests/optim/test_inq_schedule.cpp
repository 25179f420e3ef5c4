// INQ in C++: functions, quantizer, and the schedule that holds frozen weights under torch's optimizers.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>
#include <torch/serialize.h>

#include <functional>
#include <memory>
#include <sstream>

#include "qstep/core/error.h"
#include "qstep/graph/convert.h"
#include "qstep/methods/functional.h"
#include "qstep/nn/layers.h"
#include "qstep/optim/inq_schedule.h"

namespace qstep::optim {
namespace {

namespace to = torch::optim;

at::Tensor vector(at::ArrayRef<double> values) { return at::tensor(values, at::kDouble).to(at::kFloat); }

TEST(InqFunctions, QuantizeRangeAndPartition) {
  const at::Tensor w = vector({-1.4, 0.75, 0.375, 0.3, 0.25, 0.1}).requires_grad_();
  const functional::InqRange range = functional::inq_range(w, 3);
  EXPECT_EQ(range.n1, 0);
  EXPECT_EQ(range.n2, -1);
  const at::Tensor output = functional::inq_quantize(w, {.bit_width = 3});
  EXPECT_TRUE(at::equal(output, vector({-1, 1, 0.5, 0.5, 0.5, 0})));
  EXPECT_TRUE(at::equal(torch::autograd::grad({output.sum()}, {w})[0], at::ones({6})));
  EXPECT_TRUE(
      at::equal(functional::inq_quantize(w, {.bit_width = 2, .n1 = at::tensor(1)}), vector({-2, 0, 0, 0, 0, 0})));
  const at::Tensor frozen = functional::inq_partition(w, at::zeros({6}, at::kBool), 0.5);
  EXPECT_TRUE(at::equal(frozen, at::tensor({1, 1, 1, 0, 0, 0}).to(at::kBool)));
  EXPECT_THROW(functional::inq_partition(w, frozen, 0.25), Error);
  EXPECT_THROW(functional::inq_range(w / 0, 3), Error);
  EXPECT_THROW(functional::inq_quantize(w, {.bit_width = 6}), Error);
  EXPECT_EQ(functional::inq_fractions("vgg16_5bit").size(), 4U);
  EXPECT_THROW(functional::inq_fractions("vgg"), Error);
}

struct Network : torch::nn::Module {
  explicit Network(const QConfig& config) {
    input = register_module("input", nn::Quantize(config));
    conv = register_module(
        "conv", nn::Conv2d(nn::Conv2dOptions(2, 5, 3).padding(1).batch_norm(true).relu(true), config, input->output()));
    fc = register_module("fc", nn::Linear(nn::LinearOptions(5 * 16, 3).last(true), config, conv->output()));
  }
  at::Tensor forward(const at::Tensor& x) { return fc->forward(conv->forward(input->forward(x)).flatten(1)); }
  methods::InqWeightQuantizer& quantizer() {
    return dynamic_cast<methods::InqWeightQuantizer&>(*conv->weight_quantizer());
  }

  nn::Quantize input{nullptr};
  nn::Conv2d conv{nullptr};
  nn::Linear fc{nullptr};
};

at::Tensor batch() { return at::randn({6, 2, 4, 4}, at::detail::createCPUGenerator(3)); }

std::shared_ptr<Network> calibrated(const QConfig& config = QConfig::inq({.weight_bits = 4})) {
  at::manual_seed(11);
  auto network = std::make_shared<Network>(config);
  calibrate(*network, [&](const at::Tensor& x) { return network->forward(x); }, {batch()});
  return network;
}

void train(Network& network, to::Optimizer& optimizer, InqSchedule& schedule, int steps) {
  for (int i = 0; i < steps; ++i) {
    schedule.optimizer_step([&] {
      optimizer.zero_grad();
      at::Tensor loss = network.forward(batch()).square().sum();
      loss.backward();
      return loss;
    });
  }
}

using Make = std::function<std::unique_ptr<to::Optimizer>(std::vector<at::Tensor>)>;

std::vector<std::pair<const char*, Make>> optimizers() {
  return {
      {"SGD",
       [](auto p) {
         return std::make_unique<to::SGD>(p, to::SGDOptions(0.01).momentum(0.9).nesterov(true).weight_decay(0.1));
       }},
      {"Adam",
       [](auto p) { return std::make_unique<to::Adam>(p, to::AdamOptions(0.01).weight_decay(0.1).amsgrad(true)); }},
      {"AdamW", [](auto p) { return std::make_unique<to::AdamW>(p, to::AdamWOptions(0.01).weight_decay(0.1)); }},
      {"RMSprop",
       [](auto p) { return std::make_unique<to::RMSprop>(p, to::RMSpropOptions(0.01).momentum(0.9).centered(true)); }},
      {"Adagrad", [](auto p) { return std::make_unique<to::Adagrad>(p, to::AdagradOptions(0.01).weight_decay(0.1)); }},
      {"LBFGS", [](auto p) { return std::make_unique<to::LBFGS>(p, to::LBFGSOptions(1e-4).max_iter(3)); }},
  };
}

TEST(InqSchedule, FrozenWeightsStayBitForBit) {
  for (const auto& [name, make] : optimizers()) {
    const auto network = calibrated();
    const auto optimizer = make(network->parameters());
    InqSchedule schedule(*network, *optimizer, {0.5, 1.0});
    train(*network, *optimizer, schedule, 2);
    schedule.step();
    const at::Tensor frozen = network->quantizer().frozen().clone();
    const at::Tensor before = network->conv->weight.detach().clone();
    EXPECT_EQ(frozen.sum().item<int64_t>(), 45);
    EXPECT_TRUE(
        at::equal(before.masked_select(frozen),
                  functional::inq_quantize(before, {.bit_width = 4, .n1 = at::tensor(network->quantizer().n1())})
                      .masked_select(frozen)));
    train(*network, *optimizer, schedule, 3);
    const at::Tensor after = network->conv->weight.detach();
    EXPECT_TRUE(at::equal(after.masked_select(frozen), before.masked_select(frozen))) << name;
    EXPECT_TRUE((after != before).masked_select(frozen.logical_not()).all().item<bool>()) << name;

    // Negative control: the optimizer alone moves them.
    optimizer->step([&] {
      optimizer->zero_grad();
      at::Tensor loss = network->forward(batch()).square().sum();
      loss.backward();
      return loss;
    });
    if (std::string(name) != "RMSprop" &&
        std::string(name) != "LBFGS") {  // no weight decay, no momentum left, no gradient
      EXPECT_FALSE(at::equal(network->conv->weight.detach().masked_select(frozen), before.masked_select(frozen)))
          << name;
    }

    schedule.step();
    EXPECT_TRUE(schedule.finished());
    EXPECT_TRUE(network->quantizer().all_frozen());
    EXPECT_THROW(schedule.step(), Error);
  }
}

TEST(InqSchedule, MomentumOfFrozenWeightsIsZeroAndLearningRateComesBack) {
  const auto network = calibrated();
  to::Adam optimizer(network->parameters(), to::AdamOptions(0.01).weight_decay(0.1));
  InqSchedule schedule(*network, optimizer, functional::inq_fractions("resnet18_5bit"));
  train(*network, optimizer, schedule, 2);
  optimizer.param_groups()[0].options().set_lr(1e-5);
  const auto& state =
      static_cast<const to::AdamParamState&>(*optimizer.state().at(network->conv->weight.unsafeGetTensorImpl()));
  for (int step = 0; step < 2; ++step) {
    schedule.step();
    EXPECT_EQ(optimizer.param_groups()[0].options().get_lr(), 0.01);
    train(*network, optimizer, schedule, 2);
    const at::Tensor& frozen = network->quantizer().frozen();
    for (const at::Tensor& average : {state.exp_avg(), state.exp_avg_sq()}) {
      EXPECT_FALSE(average.masked_select(frozen).any().item<bool>());
      EXPECT_TRUE(average.masked_select(frozen.logical_not()).all().item<bool>());
    }
  }
}

template <class T>
std::string saved(const T& object) {
  torch::serialize::OutputArchive archive;
  object.save(archive);
  std::ostringstream stream;
  archive.save_to(stream);
  return stream.str();
}

template <class T>
void restore(T& object, const std::string& state) {
  std::istringstream stream(state);
  torch::serialize::InputArchive archive;
  archive.load_from(stream);
  object.load(archive);
}

TEST(InqSchedule, ResumesBitForBit) {
  for (const char* strategy : {"magnitude", "random"}) {
    const InqScheduleOptions options{.strategy = strategy};
    const auto network = calibrated();
    to::SGD optimizer(network->parameters(), to::SGDOptions(0.01).momentum(0.9));
    InqSchedule schedule(*network, optimizer, {0.3, 0.6, 1.0}, options);
    schedule.step();
    train(*network, optimizer, schedule, 2);
    const std::string states[] = {saved(*network), saved(optimizer), saved(schedule)};

    at::manual_seed(99);
    const auto resumed = std::make_shared<Network>(QConfig::inq({.weight_bits = 4}));
    to::SGD other_optimizer(resumed->parameters(), to::SGDOptions(0.5));
    InqSchedule other(*resumed, other_optimizer, {0.3, 0.6, 1.0}, options);
    EXPECT_THROW(restore(other, states[2]), Error);  // the model comes first
    restore(*resumed, states[0]);
    restore(other_optimizer, states[1]);
    restore(other, states[2]);
    EXPECT_EQ(other.position(), 1U);
    for (auto* run : {&schedule, &other}) {
      Network& model = run == &other ? *resumed : *network;
      to::Optimizer& its_optimizer = run == &other ? other_optimizer : optimizer;
      for (int step = 0; step < 2; ++step) {
        train(model, its_optimizer, *run, 2);
        run->step();
      }
    }
    const auto expected = network->parameters();
    const auto actual = resumed->parameters();
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_TRUE(at::equal(actual[i], expected[i])) << strategy << i;

    InqSchedule another(*resumed, other_optimizer, {0.5, 1.0}, options);
    EXPECT_THROW(restore(another, states[2]), Error);
  }
}

TEST(InqSchedule, AStepClearsTheHistoryOfLbfgs) {
  const auto network = calibrated();
  to::LBFGS optimizer(network->parameters(), to::LBFGSOptions(1e-4).max_iter(3));
  InqSchedule schedule(*network, optimizer, {0.5, 1.0});
  train(*network, optimizer, schedule, 2);
  const auto& state = static_cast<const to::LBFGSParamState&>(*optimizer.state().begin()->second);
  EXPECT_TRUE(state.d().defined());
  EXPECT_GT(state.n_iter(), 0);
  schedule.step();
  EXPECT_FALSE(state.d().defined());  // the next step goes down the gradient, which is 0 where weights are frozen
  EXPECT_EQ(state.n_iter(), 0);
}

struct OtherNetwork : torch::nn::Module {
  OtherNetwork(const QConfig& config, const std::string& name, int64_t channels) {
    input = register_module("input", nn::Quantize(config));
    conv = register_module(name, nn::Conv2d(nn::Conv2dOptions(2, channels, 3), config, input->output()));
  }
  nn::Quantize input{nullptr};
  nn::Conv2d conv{nullptr};
};

TEST(InqSchedule, RefusesTheStateOfAnotherModel) {
  const auto make = [](int64_t bits, const std::string& name, int64_t channels) {
    auto network = std::make_shared<OtherNetwork>(QConfig::inq({.weight_bits = bits}), name, channels);
    network->conv->weight_quantizer()->initialize(network->conv->weight);
    return network;
  };
  const auto state_of = [](OtherNetwork& network, int steps) {
    to::SGD optimizer(network.parameters(), to::SGDOptions(0.01));
    InqSchedule schedule(network, optimizer, {0.5, 1.0});
    for (int step = 0; step < steps; ++step) schedule.step();
    return saved(schedule);
  };
  const auto resume = [](OtherNetwork& network, const std::string& state) {
    to::SGD optimizer(network.parameters(), to::SGDOptions(0.01));
    InqSchedule schedule(network, optimizer, {0.5, 1.0});
    restore(schedule, state);
    return schedule.position();
  };
  at::manual_seed(1);
  const auto network = make(4, "conv", 5);
  EXPECT_EQ(resume(*network, state_of(*network, 0)), 0U);
  for (const auto& other : {make(4, "convolution", 5), make(4, "conv", 6), make(5, "conv", 5)}) {
    EXPECT_THROW(resume(*network, state_of(*other, 0)), Error);
  }
  // The same architecture with as many frozen weights, but others.
  const std::string state = state_of(*network, 1);
  const auto twin = make(4, "conv", 5);
  EXPECT_EQ(resume(*twin, state_of(*twin, 1)), 1U);
  EXPECT_THROW(resume(*twin, state), Error);
  EXPECT_EQ(resume(*network, state), 1U);
}

TEST(InqSchedule, BadInputThrows) {
  const auto network = calibrated();
  to::SGD optimizer(network->parameters(), to::SGDOptions(0.01));
  EXPECT_THROW(InqSchedule(*network, optimizer, {}), Error);
  EXPECT_THROW(InqSchedule(*network, optimizer, {0.5, 0.4}), Error);
  EXPECT_THROW(InqSchedule(*network, optimizer, {0.0, 1.0}), Error);
  EXPECT_THROW(InqSchedule(*network, optimizer, {1.0}, {.strategy = "largest"}), Error);
  EXPECT_THROW(InqSchedule(*calibrated(), optimizer, {1.0}), Error);
  EXPECT_THROW(InqSchedule(*calibrated(QConfig::iao()), optimizer, {1.0}), Error);
  EXPECT_THROW(Network(QConfig::inq({.weight_bits = 6})), Error);
}

TEST(InqNetwork, BecomesItsIntegerNetwork) {
  for (const int64_t bit_width : {2, 3, 4, 5}) {
    const auto network = calibrated(QConfig::inq({.weight_bits = bit_width}));
    to::SGD optimizer(network->parameters(), to::SGDOptions(0.01).momentum(0.9));
    InqSchedule schedule(*network, optimizer, {0.5, 1.0});
    for (int step = 0; step < 2; ++step) {
      schedule.step();
      train(*network, optimizer, schedule, 1);
      const auto net = convert(
          [&](ir::Builder& builder, ir::ValueId x) {
            x = network->input->lower(builder, "input", {x});
            x = network->conv->lower(builder, "conv", {x});
            return network->fc->lower(builder, "fc", {builder.reshape("flatten", x, {0, -1})});
          },
          {6, 2, 4, 4});
      const Comparison result = compare(
          *network, [&](const at::Tensor& x) { return network->forward(x); }, net, batch());
      EXPECT_GT(result.total_codes(), 0);
      EXPECT_EQ(result.differing_codes(), 0) << bit_width;
    }
  }
}

TEST(InqNetwork, FloatActivationsTrainAndEvaluateButHaveNoIntegerNetwork) {
  const auto network = calibrated(QConfig::inq({.weight_bits = 5, .act_bits = std::nullopt}));
  network->eval();
  const at::Tensor with_gradients = network->forward(batch());
  {
    const at::NoGradGuard no_grad;
    EXPECT_TRUE(at::equal(network->forward(batch()), with_gradients));
  }
  const auto lower = [&](ir::Builder& builder, ir::ValueId x) { return network->input->lower(builder, "input", {x}); };
  EXPECT_THROW(convert(lower, {1, 2, 4, 4}), Error);
}

}  // namespace
}  // namespace qstep::optim
