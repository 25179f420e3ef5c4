#include "qstep/kernels/depthwise/x86_avx2.h"

#include <algorithm>

#include "qstep/core/error.h"
#include "qstep/kernels/depthwise/blocked_depthwise.h"
#include "qstep/kernels/x86_avx2.h"

#if defined(__x86_64__)
namespace qstep::kernels::avx2 {
namespace {

int64_t tap_count(const Conv2dProblem& problem) { return int64_t{problem.window.kernel[0]} * problem.window.kernel[1]; }
int64_t pair_count(const Conv2dProblem& problem) { return (tap_count(problem) + 1) / 2; }

/// Interleaves the weights of two taps as vpunpckl and vpunpckh interleave their codes. These work on the 128-bit
/// halves of a vector separately: position i of the low and high results together holds channel (i / q % 2) * 2 q + i
/// / (2 q) * q + i % q, with q channels in a quarter of the block.
template <int block_channels, class T>
void pack_pairs(const Conv2dProblem& problem, AlignedVector<T>& packed) {
  constexpr int quarter = block_channels / 4;
  const int64_t taps = tap_count(problem);
  const int64_t pairs = pair_count(problem);
  const int64_t channels = problem.in_channels;
  const int64_t blocks = (channels + block_channels - 1) / block_channels;
  packed.reserve(static_cast<size_t>(blocks * pairs * block_channels * 2));
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = block_start(block, block_channels, channels);
    for (int64_t pair = 0; pair < pairs; ++pair) {
      for (int i = 0; i < block_channels; ++i) {
        const int64_t channel = first + i / quarter % 2 * 2 * quarter + i / (2 * quarter) * quarter + i % quarter;
        for (int64_t tap = 2 * pair; tap < 2 * pair + 2; ++tap) {
          const bool real = channel < channels && tap < taps;
          packed.push_back(real ? static_cast<T>(problem.weights[static_cast<size_t>(channel * taps + tap)]) : T{0});
        }
      }
    }
  }
}

}  // namespace

DepthwiseMadd16::DepthwiseMadd16(const Conv2dProblem& problem) : pairs_(pair_count(problem)) {
  pack_pairs<block_channels>(problem, weights_);
}

bool DepthwiseMaddubs16::supports(const Conv2dProblem& problem) {
  const size_t taps = static_cast<size_t>(tap_count(problem));
  if (problem.in_channels < block_channels) return false;
  for (size_t start = 0; start < problem.weights.size(); start += taps) {
    int64_t positive = 0;
    int64_t negative = 0;
    for (const int16_t w : problem.weights.subspan(start, taps)) {
      if (w < INT8_MIN || w > INT8_MAX) return false;
      (w > 0 ? positive : negative) += problem.quant_max * std::abs(w);
    }
    if (positive > INT16_MAX || negative > -INT16_MIN) return false;
  }
  return true;
}

DepthwiseMaddubs16::DepthwiseMaddubs16(const Conv2dProblem& problem) : pairs_(pair_count(problem)) {
  require(supports(problem), "depthwise: int16 sums of {} channels may overflow with these weights and inputs up to {}",
          problem.in_channels, problem.quant_max);
  pack_pairs<block_channels>(problem, weights_);
}

}  // namespace qstep::kernels::avx2

QSTEP_AVX2_BEGIN
namespace qstep::kernels::avx2 {

void DepthwiseMadd16::accumulate(int64_t block, const uint8_t* const* taps, int64_t first_channel, const int32_t* bias,
                                 int32_t* sums, int64_t) const {
  const int16_t* weights = weights_.data() + block * pairs_ * block_channels * 2;
  __m256i low = _mm256_setzero_si256();   // channels 0..3 and 8..11
  __m256i high = _mm256_setzero_si256();  // channels 4..7 and 12..15
  for (int64_t pair = 0; pair < pairs_; ++pair, taps += 2, weights += 2 * block_channels) {
    const __m256i first = _mm256_cvtepu8_epi16(load_half(taps[0] + first_channel));
    const __m256i second = _mm256_cvtepu8_epi16(load_half(taps[1] + first_channel));
    low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_unpacklo_epi16(first, second), load(weights)));
    high =
        _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_unpackhi_epi16(first, second), load(weights + block_channels)));
  }
  store(sums, _mm256_add_epi32(_mm256_permute2x128_si256(low, high, 0x20), load(bias)));
  store(sums + 8, _mm256_add_epi32(_mm256_permute2x128_si256(low, high, 0x31), load(bias + 8)));
}

void DepthwiseMaddubs16::accumulate(int64_t block, const uint8_t* const* taps, int64_t first_channel,
                                    const int32_t* bias, int32_t* sums, int64_t stride) const {
  const int8_t* weights = weights_.data() + block * pairs_ * block_channels * 2;
  __m256i low = _mm256_setzero_si256();   // channels 0..7 and 16..23
  __m256i high = _mm256_setzero_si256();  // channels 8..15 and 24..31
  for (int64_t pair = 0; pair < pairs_; ++pair, taps += 2, weights += 2 * block_channels) {
    const __m256i first = load(taps[0] + first_channel);
    const __m256i second = load(taps[1] + first_channel);
    low = _mm256_add_epi16(low, _mm256_maddubs_epi16(_mm256_unpacklo_epi8(first, second), load(weights)));
    high = _mm256_add_epi16(high,
                            _mm256_maddubs_epi16(_mm256_unpackhi_epi8(first, second), load(weights + block_channels)));
  }
  const auto widen = [](int32_t* to, __m128i sum, const int32_t* from)
                         QSTEP_INLINE { store(to, _mm256_add_epi32(_mm256_cvtepi16_epi32(sum), load(from))); };
  widen(sums, _mm256_castsi256_si128(low), bias);
  widen(sums + 8, _mm256_castsi256_si128(high), bias + 8);
  widen(sums + stride, _mm256_extracti128_si256(low, 1), bias + 16);
  widen(sums + stride + 8, _mm256_extracti128_si256(high, 1), bias + 24);
}

}  // namespace qstep::kernels::avx2
QSTEP_AVX2_END
#endif
