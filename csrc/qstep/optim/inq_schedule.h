#pragma once
// INQ's training: freeze a share of every layer's weights, train the rest, freeze more. C++ twin of
// qstep.optim.InqSchedule.
//
//   qstep::optim::InqSchedule schedule(*model, optimizer, qstep::functional::inq_fractions("resnet18_5bit"));
//   while (!schedule.finished()) {
//     schedule.step();
//     for (batches) { optimizer.zero_grad(); loss(batch).backward(); schedule.optimizer_step(); }
//   }
#include <ATen/core/Generator.h>
#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>
#include <torch/serialize/archive.h>

#include <optional>
#include <string>
#include <vector>

#include "qstep/methods/inq/quantizer.h"
#include "qstep/optim/frozen_weights.h"

namespace qstep::optim {

struct InqScheduleOptions {
  std::string strategy = "magnitude";  ///< largest magnitudes first (pruning-inspired); or "random"
  /// For "random". If not given, the schedule has one of its own, seeded with 0.
  std::optional<at::Generator> generator = std::nullopt;
  bool lr_reset = true;  ///< put learning rates back, at each step, to what they were when the schedule was made
};

/// Zhou et al., Incremental Network Quantization, ICLR 2017, algorithm 1.
class InqSchedule {
 public:
  /// fractions: cumulative shares in (0, 1] that do not decrease. Keeps references to model and optimizer. Throws Error
  /// for other fractions, and where the model has no layer with an InqWeightQuantizer or the optimizer none of their
  /// weights.
  InqSchedule(torch::nn::Module& model, torch::optim::Optimizer& optimizer, std::vector<double> fractions,
              InqScheduleOptions options = {});

  /// Freezes the next share of each layer: quantizes it in the parameter, holds it there, zeroes its running averages,
  /// and resets learning rates. Throws Error when finished.
  void step();

  /// One step of the optimizer that leaves frozen weights alone. Use it in place of optimizer.step().
  Tensor optimizer_step(const torch::optim::Optimizer::LossClosure& closure = nullptr) { return frozen_.step(closure); }

  bool finished() const { return position_ == fractions_.size(); }
  size_t position() const { return position_; }  ///< steps taken
  double fraction() const { return position_ == 0 ? 0.0 : fractions_[position_ - 1]; }

  /// Position, learning rates and generator. Masks and weights are the model's: save and load it and the optimizer as
  /// well, and load them first. Throws Error for the state of another model, another schedule or another position.
  void save(torch::serialize::OutputArchive& archive) const;
  void load(torch::serialize::InputArchive& archive);

 private:
  struct Layer {
    std::string name;
    Tensor weight;
    std::shared_ptr<methods::InqWeightQuantizer> quantizer;
  };
  std::vector<int64_t> description()
      const;  // of the layers: bit width, sizes, number and fingerprint of frozen weights
  std::string names() const;

  torch::optim::Optimizer& optimizer_;
  std::vector<double> fractions_;
  InqScheduleOptions options_;
  std::vector<Layer> layers_;
  std::vector<double> learning_rates_;
  FrozenWeights frozen_;
  size_t position_ = 0;
};

}  // namespace qstep::optim
