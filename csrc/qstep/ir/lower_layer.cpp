#include <algorithm>
#include <cmath>
#include <functional>
#include <span>
#include <tuple>

#include "qstep/core/error.h"
#include "qstep/ir/lowering.h"
#include "qstep/ir/weight.h"

namespace qstep::ir {
namespace {

using core::largest_bias;

// Layers whose largest |t| stays below 2^53 can be computed in doubles; all must stay below 2^62.
constexpr int double_bits = 53;
constexpr int integer_bits = 62;

/// Weights as integers: real = scale[c] * (code - zero_point).
struct Levels {
  Weight weight;
  std::vector<double> scale;  // one per channel
  int32_t zero_point = 0;
  std::function<double(size_t channel, double level)> nearest;  // the encoding's level nearest to a real one
};

size_t count_of(const std::string& name, const std::vector<int64_t>& shape) {
  require(!shape.empty(), "{}: the weight has no output channel", name);
  const int64_t count = element_count(shape, fmt::format("{}: the weight's shape", name));
  require(count > 0, "{}: every size of the weight must be positive, got {}", name, fmt::join(shape, "x"));
  return static_cast<size_t>(count);
}

// [1] or [channels] as one per channel.
std::vector<double> per_channel(const std::string& name, std::span<const float> scale, size_t channels) {
  require(scale.size() == 1 || scale.size() == channels, "{}: weight scale must have 1 or {} values, got {}", name,
          channels, scale.size());
  std::vector<double> result(channels);
  for (size_t c = 0; c < channels; ++c) {
    const float s = scale[scale.size() == 1 ? 0 : c];
    require(std::isfinite(s) && s > 0, "{}: weight scale of channel {} must be finite and positive, got {}", name, c,
            s);
    result[c] = static_cast<double>(s);
  }
  return result;
}

template <class RealWeightKind>
Weight empty_weight(const std::string& name, const RealWeightKind& real, int32_t bit_width, WeightEncoding encoding) {
  const size_t count = count_of(name, real.shape);
  require(count == real.values.size(), "{}: the weight has {} values, its shape says {}", name, real.values.size(),
          count);
  return {.shape = real.shape,
          .bit_width = bit_width,
          .encoding = std::move(encoding),
          .codes = std::vector<int16_t>(count)};
}

Levels to_levels(const std::string& name, const UniformWeight& real) {
  const int32_t bit_width = bits_to_count(int64_t{real.quant_max} - real.quant_min + 1);
  require(bit_width >= 2 && bit_width <= 8, "{}: weight bit_width must be in [2, 8], got codes [{}, {}]", name,
          real.quant_min, real.quant_max);
  Levels result{.weight = empty_weight(name, real, bit_width, UniformEncoding{real.quant_min < 0, real.zero_point}),
                .scale = per_channel(name, real.scale, static_cast<size_t>(real.shape[0])),
                .zero_point = real.zero_point,
                .nearest = [](size_t, double level) { return core::round_half_even(level); }};
  const size_t row = real.values.size() / result.scale.size();
  for (size_t i = 0; i < real.values.size(); ++i) {
    const auto scale = static_cast<float>(result.scale[i / row]);
    const float code = core::round_half_even(real.values[i] / scale) + static_cast<float>(real.zero_point);
    require(code >= static_cast<float>(real.quant_min) && code <= static_cast<float>(real.quant_max),
            "{}: weight {} of channel {} is {}, off its grid: code {} is outside [{}, {}]", name, i % row, i / row,
            real.values[i], code, real.quant_min, real.quant_max);
    result.weight.codes[i] = static_cast<int16_t>(code);
  }
  return result;
}

Levels to_levels(const std::string& name, const PowerOfTwoWeight& real) {
  require(real.bit_width >= 2 && real.bit_width <= 5, "{}: bit_width of power-of-two weights must be in [2, 5], got {}",
          name, real.bit_width);
  require(real.max_exponent >= -126 && real.max_exponent <= 127, "{}: max_exponent must be in [-126, 127], got {}",
          name, real.max_exponent);
  const int32_t largest = largest_exponent(real.bit_width);
  const int32_t smallest_power = real.max_exponent - largest;  // n_2
  const auto nearest = [largest](size_t, double level) {
    double best = 0;
    for (int32_t j = 0; j <= largest; ++j) {
      const double candidate = std::copysign(std::ldexp(1.0, j), level);
      if (std::fabs(candidate - level) < std::fabs(best - level)) best = candidate;
    }
    return best;
  };
  Levels result{.weight = empty_weight(name, real, real.bit_width, PowerOfTwoEncoding{real.variable_length}),
                .scale = std::vector<double>(static_cast<size_t>(real.shape[0]), std::ldexp(1.0, smallest_power)),
                .nearest = nearest};
  const size_t row = real.values.size() / result.scale.size();
  for (size_t i = 0; i < real.values.size(); ++i) {
    const double level = std::ldexp(static_cast<double>(real.values[i]), -smallest_power);
    require(std::fabs(level) <= std::ldexp(1.0, largest) && nearest(0, level) == level,
            "{}: weight {} of channel {} must be 0 or +-2^k with k in [{}, {}], got {}", name, i % row, i / row,
            smallest_power, real.max_exponent, real.values[i]);
    result.weight.codes[i] = static_cast<int16_t>(level);
  }
  return result;
}

Levels to_levels(const std::string& name, const CodeBookWeight& real) {
  count_of(name, real.shape);
  const auto channels = static_cast<size_t>(real.shape[0]);
  require(real.tables == 1 || real.tables == real.shape[0], "{}: there must be 1 or {} tables of levels, got {}", name,
          channels, real.tables);
  const auto tables = static_cast<size_t>(real.tables);
  const size_t entries = real.levels.size() / tables;
  require(real.levels.size() % tables == 0 && entries >= 2 && entries <= 256,
          "{}: a table of levels must have 2 to 256 entries, got {} in {} tables", name, real.levels.size(), tables);
  const std::vector<int16_t> levels(real.levels.begin(), real.levels.end());
  const auto table = [=](size_t channel) {
    const size_t start = tables == 1 ? 0 : channel * entries;
    return std::vector<int16_t>(levels.begin() + static_cast<std::ptrdiff_t>(start),
                                levels.begin() + static_cast<std::ptrdiff_t>(start + entries));
  };
  for (size_t c = 0; c < tables; ++c) {
    const std::vector<int16_t> t = table(c);
    require(std::adjacent_find(t.begin(), t.end(), std::greater_equal<>()) == t.end(),
            "{}: the levels of table {} must ascend, got {}", name, c, fmt::join(t, ", "));
  }
  const auto nearest = [table, name](size_t channel, double level) {
    const std::vector<int16_t> t = table(channel);
    require(std::binary_search(t.begin(), t.end(), int16_t{0}),
            "{}: batch norm switches channel {} off, which takes a level 0 in its table", name, channel);
    return static_cast<double>(*std::min_element(
        t.begin(), t.end(), [level](int16_t a, int16_t b) { return std::fabs(a - level) < std::fabs(b - level); }));
  };
  Levels result{.weight = empty_weight(name, real, bits_to_count(static_cast<int64_t>(entries)),
                                       CodeBookEncoding{static_cast<int32_t>(entries), levels}),
                .scale = per_channel(name, real.scale, channels),
                .nearest = nearest};
  const size_t row = real.values.size() / channels;
  for (size_t c = 0; c < channels; ++c) {
    const std::vector<int16_t> t = table(c);
    for (size_t i = 0; i < row; ++i) {
      const float value = real.values[c * row + i];
      const float level = core::round_half_even(value / static_cast<float>(result.scale[c]));
      const bool found =
          std::fabs(level) <= INT16_MAX && std::binary_search(t.begin(), t.end(), static_cast<int16_t>(level));
      require(found, "{}: weight {} of channel {} is {}, off its table: there is no level {}", name, i, c, value,
              level);
      result.weight.codes[c * row + i] = static_cast<int16_t>(level);
    }
  }
  return result;
}

// Factor and bias of one channel, as ChannelAffine leaves them out.
struct Affine {
  double factor;
  double bias;
};

Affine affine_of(const ChannelAffine& affine, size_t channel) {
  return {affine.factor.empty() ? 1.0 : affine.factor[channel], affine.bias.empty() ? 0.0 : affine.bias[channel]};
}

/// The layer's lowering, whatever its weights.
class LayerLowering {
 public:
  LayerLowering(const std::string& name, const Value& input, const ChannelAffine& affine,
                const std::optional<Target>& target, RequantPolicy policy)
      : name_(name), input_(input.grid), affine_(affine), policy_(policy), has_target_(target.has_value()) {
    if (target) {
      check_activation_grid(name, target->grid);
      grid_ = core::to_unsigned(target->grid);
      std::tie(result_.requantize.clamp_min, result_.requantize.clamp_max) = clamp_codes(*target, grid_);
      result_.output = {.kind = ValueKind::codes, .grid = grid_};
    } else {
      result_.output.kind = ValueKind::accumulator;
    }
  }

  template <class Leveled>
  LayerConstants lower(const Leveled& weight) {
    Levels levels = to_levels(name_, weight);
    const size_t channels = levels.scale.size();
    check_affine(channels);
    const size_t row = levels.weight.codes.size() / channels;
    result_.bias.resize(channels);
    for (size_t c = 0; c < channels; ++c) {
      lower_channel(c, std::span(levels.weight.codes).subspan(c * row, row), levels);
    }
    result_.weight = std::move(levels.weight);
    return std::move(result_);
  }

  LayerConstants lower(const PiecewiseWeight& real);

 private:
  void check_affine(size_t channels) const {
    require(affine_.factor.empty() || affine_.factor.size() == channels, "{}: factor must have {} values, got {}",
            name_, channels, affine_.factor.size());
    require(affine_.bias.empty() || affine_.bias.size() == channels, "{}: bias must have {} values, got {}", name_,
            channels, affine_.bias.size());
  }

  void lower_channel(size_t c, std::span<int16_t> codes, const Levels& levels) {
    int64_t sum = 0;
    for (const int16_t code : codes) sum += code - levels.zero_point;

    // The accumulator counts in units of `unit`; the target's offset goes in before the rounding.
    const double layer_scale = static_cast<double>(input_.scale) * levels.scale[c];
    const Affine affine = affine_of(affine_, c);
    const double bias = affine.bias +
                        affine.factor * (core::residual(input_) * levels.scale[c] * static_cast<double>(sum)) -
                        static_cast<double>(grid_.offset);
    double unit = layer_scale * affine.factor;
    require(std::isfinite(unit) && std::isfinite(bias), "{}: channel {} has a scale or bias that is not finite", name_,
            c);
    if (unit == 0 || std::fabs(bias / unit) >= largest_bias) {
      require(
          policy_ != RequantPolicy::shift,
          "{}: under the shift policy the bias must be below 2^28 steps of the accumulator, got {} of {} in channel "
          "{}: did training diverge?",
          name_, bias, unit, c);
      // A dead channel (batch norm's gamma near 0) would overflow the bias: count in coarser units, and the weights
      // with them.
      const double coarser = std::copysign(bias == 0 ? layer_scale : std::fabs(bias) / largest_bias, unit);
      for (int16_t& code : codes) {
        const double shrunk = levels.nearest(c, (code - levels.zero_point) * (unit / coarser));
        code = static_cast<int16_t>(static_cast<int32_t>(shrunk) + levels.zero_point);
      }
      unit = coarser;
    }
    result_.bias[c] = static_cast<int32_t>(core::round_half_even(bias / unit));
    if (has_target_) {
      result_.requantize.multipliers.push_back(
          multiplier_for(name_, c, unit / static_cast<double>(grid_.scale), policy_));
    } else {
      result_.output.scales.push_back(unit);
    }
  }

  const std::string& name_;
  const Grid& input_;
  const ChannelAffine& affine_;
  const RequantPolicy policy_;
  const bool has_target_;
  Grid grid_;
  LayerConstants result_;
};

// --- piecewise ---------------------------------------------------------------------------------------------------------

// e with |x| < 2^e.
int exponent_of(double x) {
  int exponent = 0;
  std::frexp(x, &exponent);
  return exponent;
}

Weight piecewise_codes(const std::string& name, const PiecewiseWeight& real) {
  const size_t count = count_of(name, real.shape);
  require(real.bit_width >= 2 && real.bit_width <= 8, "{}: bit_width of piecewise weights must be in [2, 8], got {}",
          name, real.bit_width);
  require(real.regions >= 2 && real.regions <= 4, "{}: piecewise weights have 2 to 4 regions, got {}", name,
          real.regions);
  const auto expect_count = [&](const char* what, size_t found) {
    require(found == count, "{}: {} must have {} values, one per weight, got {}", name, what, count, found);
  };
  expect_count("region", real.region.size());
  expect_count("magnitude", real.magnitude.size());
  expect_count("negative", real.negative.size());
  Weight weight{.shape = real.shape, .bit_width = real.bit_width, .codes = std::vector<int16_t>(count)};
  for (size_t i = 0; i < count; ++i) {
    require(real.region[i] < real.regions, "{}: region of weight {} must be below {}, got {}", name, i, real.regions,
            real.region[i]);
    require(real.magnitude[i] < 1 << (real.bit_width - 1), "{}: magnitude of weight {} must be below {}, got {}", name,
            i, 1 << (real.bit_width - 1), real.magnitude[i]);
    require(real.negative[i] <= 1, "{}: negative of weight {} must be 0 or 1, got {}", name, i, real.negative[i]);
    const bool is_zero = real.region[i] == 0 && real.magnitude[i] == 0;
    weight.codes[i] = join_code({real.region[i], real.negative[i] == 1 && !is_zero, real.magnitude[i]}, real.bit_width);
  }
  return weight;
}

/// Steps and starts of every region and channel.
class Regions {
 public:
  Regions(const std::string& name, const PiecewiseWeight& real)
      : channels_(static_cast<size_t>(real.shape[0])), real_(real) {
    const auto regions = static_cast<size_t>(real.regions);
    const auto check = [&](const char* what, std::span<const double> values) {
      require(values.size() == regions || values.size() == regions * channels_,
              "{}: {} must have {} x 1 or {} x {} values, got {}", name, what, regions, regions, channels_,
              values.size());
      for (const double v : values)
        require(std::isfinite(v) && v >= 0, "{}: {} must be finite and not negative, got {}", name, what, v);
    };
    check("step", real.step);
    check("start", real.start);
    for (size_t c = 0; c < channels_; ++c)
      require(start(0, c) == 0, "{}: start of region 0 must be 0, got {} in channel {}", name, start(0, c), c);
    require(real.constant.empty() || real.constant.size() == channels_, "{}: constant must have {} values, got {}",
            name, channels_, real.constant.size());
    for (const double v : real.constant) require(std::isfinite(v), "{}: constant must be finite, got {}", name, v);
  }

  double step(size_t region, size_t channel) const { return at(real_.step, region, channel); }
  double start(size_t region, size_t channel) const { return at(real_.start, region, channel); }
  double constant(size_t channel) const { return real_.constant.empty() ? 0.0 : real_.constant[channel]; }
  bool has_constant() const {
    return std::ranges::any_of(real_.constant, [](double v) { return v != 0; });
  }

 private:
  double at(std::span<const double> values, size_t region, size_t channel) const {
    const bool shared = values.size() == static_cast<size_t>(real_.regions);
    return values[shared ? region : region * channels_ + channel];
  }

  size_t channels_;
  const PiecewiseWeight& real_;
};

LayerConstants LayerLowering::lower(const PiecewiseWeight& real) {
  require(policy_ == RequantPolicy::exact, "{}: piecewise weights need the requantization policy exact", name_);
  Weight weight = piecewise_codes(name_, real);
  const Regions regions(name_, real);
  const auto channels = static_cast<size_t>(real.shape[0]);
  check_affine(channels);
  const size_t row = weight.codes.size() / channels;
  PiecewiseEncoding encoding{.regions = real.regions, .has_constant = regions.has_constant()};
  const auto sums = static_cast<size_t>(encoding.sums());
  encoding.multipliers.resize(sums * channels);
  encoding.constants.resize(channels);
  encoding.shifts.resize(channels);
  const auto largest_code =
      static_cast<double>(std::max(core::zero_code(input_), input_.quant_max - core::zero_code(input_)));

  for (size_t c = 0; c < channels; ++c) {
    // What one unit of each sum is worth, and the largest magnitude of each sum.
    const Affine affine = affine_of(affine_, c);
    const double input_step = affine.factor * static_cast<double>(input_.scale);
    std::vector<double> worth(sums, 0.0);
    std::vector<double> bound(sums, 0.0);
    const auto region_count = static_cast<size_t>(real.regions);
    for (size_t r = 0; r < region_count; ++r) {
      worth[r] = input_step * regions.step(r, c);
      if (r > 0) worth[region_count + r - 1] = input_step * regions.start(r, c);
    }
    if (encoding.has_constant) {
      worth.back() = input_step * regions.constant(c);
      bound.back() = largest_code * static_cast<double>(row);
    }
    double weight_sum = regions.constant(c) * static_cast<double>(row);
    for (size_t i = 0; i < row; ++i) {
      const PiecewiseCode code = split_code(weight.codes[c * row + i], weight.bit_width);
      const auto r = static_cast<size_t>(code.region);
      bound[r] += largest_code * code.magnitude;
      if (r > 0) bound[region_count + r - 1] += largest_code;
      const double magnitude = regions.start(r, c) + regions.step(r, c) * code.magnitude;
      weight_sum += code.negative ? -magnitude : magnitude;
    }
    double constant =
        affine.bias + affine.factor * (core::residual(input_) * weight_sum) - static_cast<double>(grid_.offset);

    // In steps of the output's grid; without one, in a power of two so that no result reaches 2^30.
    const auto total = [&] {
      double sum = std::fabs(constant);
      for (size_t k = 0; k < sums; ++k) sum += std::fabs(worth[k]) * bound[k];
      return sum;
    };
    require(std::isfinite(total()), "{}: channel {} has a scale or bias that is not finite", name_, c);
    const double unit = has_target_ ? static_cast<double>(grid_.scale) : std::ldexp(1.0, exponent_of(total()) - 30);
    if (!has_target_) result_.output.scales.push_back(unit);
    double largest = 0;
    for (double& w : worth) {
      w /= unit;
      largest = std::max(largest, std::fabs(w));
    }
    constant /= unit;

    // Multipliers of up to 30 bits where t still fits a double; of 24 bits or more where it fits 62.
    const int in_double = double_bits - 1 - exponent_of(total());
    const int in_integer = integer_bits - 1 - exponent_of(total());
    const int shift =
        std::min({62, 30 - exponent_of(largest), std::max(in_double, std::min(in_integer, 24 - exponent_of(largest)))});
    require(shift >= 0, "{}: channel {} reaches {} steps of its output: did training diverge?", name_, c, total());
    for (size_t k = 0; k < sums; ++k) {
      encoding.multipliers[k * channels + c] = static_cast<int32_t>(core::round_half_even(std::ldexp(worth[k], shift)));
    }
    encoding.constants[c] = static_cast<int64_t>(core::round_half_even(std::ldexp(constant, shift)));
    encoding.shifts[c] = static_cast<int8_t>(shift);
  }
  weight.encoding = std::move(encoding);
  result_.weight = std::move(weight);
  return std::move(result_);
}

}  // namespace

LayerConstants lower_layer(const std::string& name, const Value& input, const RealWeight& weight,
                           const ChannelAffine& affine, const std::optional<Target>& target, RequantPolicy policy) {
  LayerLowering lowering(name, input, affine, target, policy);
  return std::visit([&](const auto& real) { return lowering.lower(real); }, weight);
}

}  // namespace qstep::ir
