#pragma once
// Matrix product of codes (a linear layer; a 1x1 convolution):
//
//   acc[m][n] = sum_k (input[m][k] - zero_code) * weights[n][k] + bias[n]
//   output[m][n] = acc, or its requantized code (epilogue/epilogue.h)
//
// Weights that take several sums per output (epilogue/combination.h) have a matrix for each; biases are in the constants.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "qstep/kernels/epilogue/epilogue.h"
#include "qstep/kernels/isa.h"
#include "qstep/kernels/layout.h"

namespace qstep::kernels {

/// Spans are read by supports() and pack() only.
struct GemmProblem {
  int64_t depth = 0;                 ///< K
  int64_t columns = 0;               ///< N
  int32_t quant_max = 255;           ///< largest input code, 1..255: kernels rely on it
  int32_t zero_code = 0;             ///< 0..quant_max
  std::span<const int16_t> weights;  ///< [sums][columns][depth]: integers, any that int16 holds
  std::span<const int32_t> bias;     ///< [columns]; with several sums, none
  Requantization requantization;

  int sums() const { return requantization.combination.sums(); }
};

struct GemmArguments {
  const uint8_t* input = nullptr;  ///< [rows][depth], codes in [0, quant_max]
  int64_t rows = 0;                ///< M
  int64_t input_stride = 0;        ///< elements from one row to the next
  Output output;                   ///< [rows][columns]
  int64_t output_stride = 0;       ///< elements from one row to the next
};

/// Weights in a kernel's own layout. Immutable: any number of threads may run it.
class PackedGemm {
 public:
  virtual ~PackedGemm() = default;
  /// Of one run: any ranges of them may be computed at the same time.
  virtual int64_t work_items(int64_t rows) const = 0;
  /// Bytes of scratch that each concurrent run needs, aligned to memory_alignment.
  virtual size_t scratch_bytes(int64_t rows) const = 0;
  /// Computes the outputs of `items`, a range in [0, work_items(arguments.rows)).
  virtual void run(const GemmArguments& arguments, Range items, std::byte* scratch) const = 0;
  virtual size_t packed_bytes() const = 0;
};

struct GemmKernel {
  std::string_view name;
  Isa isa;
  bool (*supports)(const GemmProblem&);                     ///< of a valid problem: true where the kernel is right
  std::unique_ptr<PackedGemm> (*pack)(const GemmProblem&);  ///< throws Error where it does not support the problem
  bool (*suits)(const GemmProblem&) = nullptr;  ///< of a supported one: true where the kernel is fast; null: for all
};

std::span<const GemmKernel> gemm_kernels();

/// Throws Error where the problem is not as described above, or where an int32 accumulator could overflow: for each
/// column and sum max|input - zero_code| * sum|weight| + |bias| < 2^31 must hold, and with several sums |t| < 2^62.
/// `operation` begins the message.
void validate(const GemmProblem& problem, std::string_view operation = "gemm");

/// The largest magnitude that an accumulator of any column (with several sums, their t) can have, proved from the
/// weights; 2^62 where it would be more.
int64_t accumulator_bound(const GemmProblem& problem);

/// bias[column] - zero_code * sum of the column's weights in matrix number `sum`, so that acc = sum input * weight +
/// folded_bias. Fits int32 for a valid problem. The sum alone may wrap around 2^32: the wrapped total is right, because
/// acc fits.
int32_t folded_bias(const GemmProblem& problem, int64_t column, int sum = 0);

const GemmKernel& choose_gemm(const GemmProblem& problem, Isa isa = current_isa());

}  // namespace qstep::kernels
