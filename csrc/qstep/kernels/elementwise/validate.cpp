#include <algorithm>
#include <bit>
#include <cmath>

#include "qstep/core/error.h"
#include "qstep/kernels/elementwise/bilinear.h"
#include "qstep/kernels/elementwise/quantize.h"

namespace qstep::kernels {
namespace {

void require_code(std::string_view operation, std::string_view argument, int32_t value, int32_t largest) {
  require(0 <= value && value <= largest, "{}: {} must be in [0, {}], got {}", operation, argument, largest, value);
}

}  // namespace

void validate(const BilinearProblem& p) {
  require_code("bilinear", "quant_max_a", p.quant_max_a, 255);
  require_code("bilinear", "quant_max_b", p.quant_max_b, 255);
  require_code("bilinear", "zero_code_a", p.zero_code_a, p.quant_max_a);
  require_code("bilinear", "zero_code_b", p.zero_code_b, p.quant_max_b);
  require_code("bilinear", "zero_point", p.zero_point, 255);
  require_code("bilinear", "clamp_max", p.clamp_max, 255);
  require_code("bilinear", "clamp_min", p.clamp_min, p.clamp_max);
  require(0 <= p.shift && p.shift <= 62, "bilinear: shift must be in [0, 62], got {}", p.shift);
  const double a = std::max(p.zero_code_a, p.quant_max_a - p.zero_code_a);
  const double b = std::max(p.zero_code_b, p.quant_max_b - p.zero_code_b);
  const auto magnitude = [](int64_t x) { return std::fabs(static_cast<double>(x)); };
  const double largest =
      magnitude(p.product) * a * b + magnitude(p.left) * a + magnitude(p.right) * b + magnitude(p.constant);
  require(largest < 0x1p53,
          "bilinear: |product c_a c_b| + |left c_a| + |right c_b| + |constant| must be below 2^53, may reach {}",
          largest);
}

bool is_shift(const BilinearProblem& p) {
  const auto is_power_of_two = [](int64_t x) {
    return x > 0 && x <= 1 << 22 && std::has_single_bit(static_cast<uint64_t>(x));
  };
  return p.product == 0 && p.constant == 0 && is_power_of_two(p.left) && is_power_of_two(p.right);
}

void validate_code_grid(const core::Grid& grid) {
  require(std::isfinite(grid.scale) && grid.scale > 0, "quantize: scale must be finite and positive, got {}",
          grid.scale);
  require(std::isfinite(grid.offset), "quantize: offset must be finite, got {}", grid.offset);
  require_code("quantize", "quant_max", grid.quant_max, 255);
  require_code("quantize", "quant_min", grid.quant_min, grid.quant_max);
  require_code("quantize", "zero_point", grid.zero_point, 255);
}

}  // namespace qstep::kernels
