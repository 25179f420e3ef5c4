#include "qstep/kernels/elementwise/interleave.h"

#include "qstep/kernels/kernel_table.h"
#include "qstep/kernels/x86_avx2.h"

namespace qstep::kernels {
namespace {

void interleave_reference(const uint8_t* planes, int64_t plane_stride, int64_t count, uint8_t* pixels) {
  for (int64_t i = 0; i < count; ++i) {
    for (int c = 0; c < 3; ++c) pixels[3 * i + c] = planes[c * plane_stride + i];
  }
}

}  // namespace
}  // namespace qstep::kernels

#if defined(__x86_64__)
QSTEP_AVX2_BEGIN
namespace qstep::kernels {
namespace {

using namespace avx2;

/// Where bytes 16 * block to 16 * block + 15 of sixteen pixels come from in plane c; -1: from another plane.
QSTEP_INLINE inline __m128i places(int block, int c) {
  alignas(16) int8_t index[16];
  for (int i = 0; i < 16; ++i) {
    const int byte = 16 * block + i;
    index[i] = static_cast<int8_t>(byte % 3 == c ? byte / 3 : -1);
  }
  return load_half(index);
}

void interleave_avx2(const uint8_t* planes, int64_t plane_stride, int64_t count, uint8_t* pixels) {
  __m128i from[3][3];
  for (int block = 0; block < 3; ++block) {
    for (int c = 0; c < 3; ++c) from[block][c] = places(block, c);
  }
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m128i x0 = load_half(planes + i);
    const __m128i x1 = load_half(planes + plane_stride + i);
    const __m128i x2 = load_half(planes + 2 * plane_stride + i);
    unroll<3>([&](auto block) QSTEP_INLINE {
      const __m128i first = _mm_or_si128(_mm_shuffle_epi8(x0, from[block][0]), _mm_shuffle_epi8(x1, from[block][1]));
      store_half(pixels + 3 * i + 16 * block, _mm_or_si128(first, _mm_shuffle_epi8(x2, from[block][2])));
    });
  }
  interleave_reference(planes + i, plane_stride, count - i, pixels + 3 * i);
}

}  // namespace
}  // namespace qstep::kernels
QSTEP_AVX2_END
#endif

namespace qstep::kernels {
namespace {

bool three(int32_t planes) { return planes == 3; }

constexpr InterleaveKernel table[] = {
#if defined(__x86_64__)
    {"interleave_avx2", Isa::avx2, three, interleave_avx2},
#endif
    {"interleave_reference", Isa::reference, three, interleave_reference},
};

}  // namespace

std::span<const InterleaveKernel> interleave_kernels() { return table; }

const InterleaveKernel& choose_interleave(Isa isa) { return choose_kernel("interleave", interleave_kernels(), 3, isa); }

}  // namespace qstep::kernels
