#pragma once
// First values of scale and offset of an activation, from a sample of it. No torch. Bhalgat et al., LSQ+, section on
// initialisation: the scale and offset that minimise the squared quantization error; and its min-max alternative.
#include <cstdint>
#include <vector>

namespace qstep::methods::lsq_plus {

struct ScaleAndOffset {
  float scale = 1.0F;
  float offset = 0.0F;
};

/// The grid that spans [min, max]. Without an offset: the smallest scale that covers both ends, as far as its codes
/// have their sign. A constant has scale 1, and itself as offset; the same where the scale would be below the
/// smallest normal float.
ScaleAndOffset min_max_grid(float min, float max, int32_t quant_min, int32_t quant_max, bool learn_offset);

/// Evaluations of the error that least_error_grid spends at most.
inline constexpr int max_evaluations = 200;

/// The grid of least squared error over a non-empty sample of finite values, from at most max_evaluations evaluations:
/// coarse candidates, then descent along the coordinates with shrinking steps. Deterministic.
ScaleAndOffset least_error_grid(std::vector<float> sample, int32_t quant_min, int32_t quant_max, bool learn_offset);

/// Elements that a sample has at most.
inline constexpr int64_t sample_size = 65536;

/// Positions of a sample of n elements, at most sample_size of them: all where they fit, else spread evenly without a
/// period, so that no channel or column is preferred.
std::vector<int64_t> sample_positions(int64_t n);

}  // namespace qstep::methods::lsq_plus
