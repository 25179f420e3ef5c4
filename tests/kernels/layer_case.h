#pragma once
// One convolution (a matrix product is one over 1 x 1 images) with its input, its accumulators according to the
// oracle, and the comparison that judges every kernel: the accumulators and the codes of each policy, element by
// element.
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "oracle/convolution.h"
#include "qstep/kernels/conv2d/conv2d.h"
#include "qstep/kernels/gemm/gemm.h"

namespace qstep::kernels::test {

/// What weights and inputs look like. All but `random` use the largest codes, which is where a narrow sum fails first.
enum class Pattern { random, all_positive, all_negative, alternating, pairs };
inline constexpr Pattern all_patterns[] = {Pattern::random, Pattern::all_positive, Pattern::all_negative,
                                           Pattern::alternating, Pattern::pairs};

/// A matrix product as a convolution.
inline oracle::Convolution product(int64_t rows, int64_t columns, int64_t depth) {
  return {
      .batch = rows, .in_channels = depth, .height = 1, .width = 1, .out_channels = columns, .groups = 1, .window = {}};
}

/// A kernel of up to so many rows and columns, strides up to 3, padding up to 2 on each side, dilation up to 2.
core::Window random_window(int32_t rows, int32_t columns, std::mt19937& random);

struct Widths {
  int activation = 8;
  int weight = 8;
};

struct LayerCase {
  oracle::Convolution shape;
  int32_t quant_max = 255;
  int32_t zero_code = 0;
  std::vector<int16_t> weights;  // [out, kernel_h, kernel_w, in / groups]
  std::vector<int32_t> bias;
  std::vector<uint8_t> input;         // [N, C, H, W]
  std::vector<int64_t> accumulators;  // [N, O, H, W], by the oracle
  bool sliced = false;                // operands are slices of larger tensors

  LayerCase(const oracle::Convolution& shape, Widths widths, Pattern pattern, std::mt19937& random);

  /// Recomputes the accumulators after a change.
  void judge();

  Conv2dProblem conv2d() const;
  GemmProblem gemm() const;
  std::string describe() const;
};

/// Empty where `kernel` gives the oracle's accumulators and codes under all policies; else what differs first. The
/// work is split into `parts` ranges, run in random order.
std::string difference(const Conv2dKernel& kernel, const LayerCase& layer, int parts, std::mt19937& random);
std::string difference(const GemmKernel& kernel, const LayerCase& layer, int parts, std::mt19937& random);

/// A layer whose outputs combine the accumulators of several (qstep/kernels/epilogue/combination.h): they have the same
/// shape, input and zero code, weights of their own and no biases.
struct SeveralSums {
  std::vector<LayerCase> layers;
  std::vector<int16_t> weights;  // of all layers
  std::vector<int32_t> multipliers;
  std::vector<int64_t> constants;
  std::vector<int8_t> shifts;
  std::vector<int64_t> steps;  // [N, O, H, W], by the oracle

  SeveralSums(const oracle::Convolution& shape, int sums, Widths widths, std::mt19937& random);

  Conv2dProblem conv2d() const;
  GemmProblem gemm() const;
};

/// Empty where `kernel` gives the oracle's steps, and codes made of them; else what differs first.
std::string difference(const Conv2dKernel& kernel, const SeveralSums& layer, int parts, std::mt19937& random);
std::string difference(const GemmKernel& kernel, const SeveralSums& layer, int parts, std::mt19937& random);

}  // namespace qstep::kernels::test
