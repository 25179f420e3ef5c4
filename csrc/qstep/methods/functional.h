#pragma once
// The formulas of the methods as differentiable functions, with the names that Python has: one function per op of
// torch.ops.qstep, tensors first and an aggregate of options after.
//
//   Tensor x_hat = qstep::functional::lsq_plus(x, scale, offset, {.quant_min = 0, .quant_max = 15});
//
// Everywhere: x is float32, float64, bfloat16 or float16, of any shape and layout; results of its shape have its
// dtype and memory format. A grid's parameters have one element (shape [] or [1]), or with `axis` one per channel
// ([size along axis]); a negative axis counts from the end. Bad arguments throw qstep::Error. On CPU that includes
// scales that are not finite and above 0; on CUDA values are not looked at, because that would wait for the device,
// and such a scale gives NaN or codes without meaning.
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

namespace qstep::functional {

struct LsqPlusOptions {
  int64_t quant_min = 0;
  int64_t quant_max = 0;
  std::optional<int64_t> axis = std::nullopt;
  double grad_scale = 1.0;          ///< multiplies the gradients of scale and offset; LSQ's g = 1 / sqrt(N * quant_max)
  std::string boundary = "strict";  ///< x at a bound counts as clipped, as in the papers; or "inclusive": as inside
};

/// LSQ (without offset) and LSQ+: x on the learned grid, x_hat = q * scale + offset with
/// q = round_half_even(clamp((x - offset) / scale, quant_min, quant_max)). Differentiable in x, scale and offset, once.
/// scale > 0. Esser et al., ICLR 2020, eq. 1 to 3; Bhalgat et al., CVPR workshops 2020. methods/lsq_plus/README.md.
at::Tensor lsq_plus(const at::Tensor& x, const at::Tensor& scale, const std::optional<at::Tensor>& offset,
                    const LsqPlusOptions& options);

struct FakeQuantizeAffineOptions {
  int64_t quant_min = 0;
  int64_t quant_max = 0;
  std::optional<int64_t> axis = std::nullopt;
  std::string rounding = "half_even";  ///< or "half_up": ties towards +infinity, as TensorFlow's kernels
};

/// IAO: x on an affine grid, x_hat = (q - zero_point) * scale with q = clamp(round(x / scale) + zero_point,
/// quant_min, quant_max). zero_point holds integers of [quant_min, quant_max] in any integer or floating dtype.
/// Differentiable in x, once: the gradient passes where (quant_min - zero_point) * scale <= x <= (quant_max -
/// zero_point) * scale. Jacob et al., CVPR 2018, eq. 12.
at::Tensor fake_quantize_affine(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& zero_point,
                                const FakeQuantizeAffineOptions& options);

struct AffineParamsOptions {
  int64_t quant_min = 0;
  int64_t quant_max = 0;
  bool symmetric = false;  ///< zero_point 0: the smallest scale whose grid covers [min, max]
};

/// IAO: scale and zero_point (int32) of the grid that covers the ranges [min, max], extended to hold 0; elementwise,
/// so of the shape of min. zero_point is rounded half away from zero and clamped. An empty range ([0, 0]) gives
/// scale 1. No gradient. Jacob et al., CVPR 2018, section 3.
std::tuple<at::Tensor, at::Tensor> affine_params(const at::Tensor& min, const at::Tensor& max,
                                                 const AffineParamsOptions& options);

struct LsqWeightScaleOptions {
  int64_t quant_min = 0;
  int64_t quant_max = 0;
  std::optional<int64_t> axis = std::nullopt;
  /// "lsq_plus": max(|mean - 3 sd|, |mean + 3 sd|) / max(-quant_min, quant_max); "lsq": 2 mean|w| / sqrt(quant_max).
  std::string rule = "lsq_plus";
};

/// First scale of a weight w, shape [] or [channels]; 1 where w is all zero or empty. sd is that of the population.
/// No gradient.
at::Tensor lsq_weight_scale(const at::Tensor& w, const LsqWeightScaleOptions& options);

struct LsqActivationInitOptions {
  int64_t quant_min = 0;
  int64_t quant_max = 0;
  bool learn_offset = false;
  std::string method = "mse";  ///< least squared error over a sample of 65,536 elements; or "min_max" of all of x
};

/// First scale and offset of an activation, each of shape [], from one batch x. Offset is 0 unless learn_offset.
/// Deterministic. x must be finite; empty and all-zero x give scale 1, offset 0. No gradient. Waits for x's device.
std::tuple<at::Tensor, at::Tensor> lsq_activation_init(const at::Tensor& x, const LsqActivationInitOptions& options);

struct PactOptions {
  int64_t bit_width = 8;   ///< 2 to 8
  bool is_signed = false;  ///< [-alpha, alpha] in 2 (2^(b-1) - 1) steps, instead of [0, alpha] in 2^b - 1
  std::string gradient =
      "pact";  ///< alpha learns from clipped x alone, as in the paper; or "ste": from rounding errors, too
};

/// PACT: x clipped at a learned level and quantized, x_hat = q * scale with scale = pact_scale(alpha, ...) and
/// q = round_half_even(clamp(x / scale, quant_min, quant_max)). alpha: one element, > 0. Differentiable in x and alpha,
/// once. Choi et al., PACT, 2018, eq. 1 to 3. methods/pact/README.md.
at::Tensor pact(const at::Tensor& x, const at::Tensor& alpha, const PactOptions& options);

/// The step of pact's grid, alpha / levels rounded once, of the shape of alpha; levels is 2^b - 1, or 2^(b-1) - 1 where
/// is_signed. No gradient.
at::Tensor pact_scale(const at::Tensor& alpha, int64_t bit_width, bool is_signed);

struct PwlqOptions {
  int64_t bit_width = 4;  ///< 2 to 8: a sign and bit_width - 1 bits of magnitude; the piece is stored beside them
  /// Ascending, above 0 and below max|w|; shape [] or [count], with axis [channels] or [channels, count], count 1 to 3.
  /// Estimated from w where it is not given.
  std::optional<at::Tensor> breakpoint = std::nullopt;
  std::optional<int64_t> axis = std::nullopt;
  /// "gaussian", "laplace": the paper's fits (one breakpoint; more are optimal ones); "optimal_gaussian",
  /// "optimal_laplace": least expected error; "search": least error on w.
  std::string estimate = "gaussian";
  int64_t breakpoints = 1;       ///< how many to estimate, 1 to 3
  std::string scheme = "paper";  ///< or "repo": the first piece's step is 2 p / (2^b - 1) instead of p / (2^(b-1) - 1)
  /// "repo": (w_hat + mean(w) - mean(w_hat)) * sd(w) / sd(w_hat); "exact": (w_hat - mean(w_hat)) * sd(w) / sd(w_hat) +
  /// mean(w); over the elements that share breakpoints.
  std::string bias_correction = "none";
};

/// PWLQ: w in pieces of differing steps. With breakpoints p_1 < ... and p_0 = 0, p_(n+1) = max|w|, a magnitude between
/// p_r and p_(r+1) goes to p_r + step_r * q, q of bit_width - 1 bits, and keeps its sign. w is finite. Differentiable in
/// w, once: the gradient passes unchanged (beyond the paper, which does not train). Fang et al., ECCV 2020, eq. 1 to 8.
/// methods/pwlq/README.md.
at::Tensor pwlq(const at::Tensor& w, const PwlqOptions& options);

/// The breakpoints that pwlq estimates, in units of w: shape [], [count], [channels] or [channels, count]. An all-zero
/// channel counts as one of range 1. `breakpoint` and `bias_correction` of the options have no part in it. No gradient.
at::Tensor pwlq_breakpoint(const at::Tensor& w, const PwlqOptions& options);

/// What pwlq makes of w as integers: value = sign * (start[region] + step[region] * magnitude) + constant.
struct PwlqCodes {
  at::Tensor region;     ///< uint8, shape of w, 0 to count
  at::Tensor magnitude;  ///< uint8, shape of w, 0 to 2^(bit_width - 1) - 1
  at::Tensor negative;   ///< bool, shape of w; false for a zero of region 0
  at::Tensor start;      ///< float64 [count + 1, channels]
  at::Tensor step;       ///< float64 [count + 1, channels]
  at::Tensor constant;   ///< float64 [channels], 0 without bias correction
};
/// Computed on the CPU, as pwlq computes float32. No gradient.
PwlqCodes pwlq_encode(const at::Tensor& w, const PwlqOptions& options);

/// pwlq with all levels on one grid per channel: values = scale * level.
struct PwlqCodeBook {
  at::Tensor values;  ///< like w, differentiable as pwlq
  at::Tensor scale;   ///< [] or [channels]
  at::Tensor levels;  ///< int16 [channels or 1, number of levels], ascending
};
/// The steps of the outer pieces become whole multiples of the first one's (scheme "repo": of half of it), those of
/// least squared error near the breakpoints. The constant of the bias correction is rounded to the grid as well. At
/// most 256 levels. Waits for the device of w.
PwlqCodeBook pwlq_code_book(const at::Tensor& w, const PwlqOptions& options);

/// The medians of the k smallest and of the k largest values of x, shape [] each: PWLQ's range of an activation. All
/// values where x has fewer than k; the mean of the two middle ones where k is even. x is not empty. No gradient.
std::tuple<at::Tensor, at::Tensor> top_k_range(const at::Tensor& x, int64_t k = 10);
struct InqQuantizeOptions {
  int64_t bit_width = 5;                        ///< 2..5
  std::optional<at::Tensor> n1 = std::nullopt;  ///< integer, one element; that of inq_range where not given
};

/// INQ: w on the powers of two {0, +-2^n2, ..., +-2^n1}, n2 = n1 + 1 - 2^(bit_width - 2); midpoints go to the larger
/// magnitude, larger weights to 2^n1. Differentiable in w, once, straight through. On CPU an n1 with a power that the
/// dtype of w does not hold is an error. Zhou et al., ICLR 2017, eq. 1 to 4. methods/inq/README.md.
at::Tensor inq_quantize(const at::Tensor& w, const InqQuantizeOptions& options);

struct InqRange {
  int64_t n1;  ///< exponent of the largest power of two; by the rule "max" floor(log2(4 max|w| / 3))
  int64_t n2;  ///< exponent of the smallest
};

/// INQ: exponents for a weight w; n1 = 0 where w is all zero or empty. w must be finite. Waits for w's device.
/// rule "max": the paper's. "mse": of that n1 and the seven below it the one with the least squared error of
/// inq_quantize, the largest where several have it. Zhou et al., ICLR 2017, eq. 2 and 3.
InqRange inq_range(const at::Tensor& w, int64_t bit_width, std::string_view rule = "max");

struct InqPartitionOptions {
  std::string strategy = "magnitude";  ///< largest magnitudes first, ties by index; or "random": uniformly
  std::optional<at::Generator> generator = std::nullopt;  ///< for "random"; torch's default CPU generator if not given
};

/// INQ: frozen (bool, of the shape of w) with more weights set, floor(fraction * elements + 1/2) altogether. fraction is
/// cumulative, in (0, 1] and not below the share that is frozen already. w must be finite. Waits for w's device.
/// Zhou et al., ICLR 2017, eq. 5 and section 2.2.
at::Tensor inq_partition(const at::Tensor& w, const at::Tensor& frozen, double fraction,
                         const InqPartitionOptions& options = {});

/// INQ: the cumulative fractions of one of the paper's schedules, such as "resnet18_5bit". methods/inq/README.md lists them.
std::vector<double> inq_fractions(std::string_view preset);

struct FixedPointOptions {
  int64_t word_length = 8;  ///< 2..8
  bool is_signed = true;  ///< codes +-(2^(word_length-1) - 1), never the most negative one; else 0 .. 2^word_length - 1
  /// Where the gradient passes: for codes strictly inside the range before rounding ("pact") or after it ("reference").
  std::string mask = "pact";
};

/// F8Net: x in fixed point, x_hat = q * 2^-FL with q = clamp(round_half_even(x * 2^FL)). fraction_length FL: one integer,
/// in [0, word_length - 1] signed, [0, word_length] unsigned. Differentiable in x, once. Jin et al., ICLR 2022.
at::Tensor fixed_point(const at::Tensor& x, const at::Tensor& fraction_length, const FixedPointOptions& options);
at::Tensor fixed_point(const at::Tensor& x, int64_t fraction_length, const FixedPointOptions& options);

/// F8Net: fraction length (int32, shape of std) of 8-bit words for standard deviations: floor(log2(C / std)), C = 40
/// signed, 70 unsigned, clamped to 0..7, 0..8; with exact thresholds. std >= 0.
at::Tensor f8net_fraction_length(const at::Tensor& std, bool is_signed);

struct F8NetFormatOptions {
  int64_t word_length = 8;
  bool is_signed = true;
  std::string rule = "std";  ///< of the unbiased standard deviation, word_length 8 only; or "grid": least RMS error
  bool rectified = false;    ///< unsigned x is a rectified tensor: its deviation is put back to that of the Gaussian
};

/// F8Net: fraction length (int32, shape []) that suits the values of x. No gradient.
at::Tensor f8net_format(const at::Tensor& x, const F8NetFormatOptions& options);

/// F8Net: eta = |alpha| / levels * 2^exponent. With alpha the clipping level, levels the largest code and exponent the
/// fraction length, PACT is eta * fixed_point(x / eta). Differentiable in alpha. exponent: integers in [-126, 127].
at::Tensor f8net_eta(const at::Tensor& alpha, const at::Tensor& exponent, int64_t levels);

/// F8Net: PACT by way of fixed point, eta * fixed_point(x / eta): |alpha| / levels * round(clip(x, alpha) / (|alpha| / levels)),
/// whatever the fraction length. alpha: one element, not 0. Differentiable in x and alpha; within the range alpha's
/// gradient is (round(v) - v) / levels, v = x * levels / |alpha|.
at::Tensor f8net_pact(const at::Tensor& x, const at::Tensor& alpha, const at::Tensor& fraction_length,
                      const FixedPointOptions& options);

/// 2^exponent in float32, exactly; exponent: integers in [-126, 127].
at::Tensor power_of_two(const at::Tensor& exponent);

}  // namespace qstep::functional
