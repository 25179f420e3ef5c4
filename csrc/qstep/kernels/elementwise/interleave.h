#pragma once
// Three planes of codes made pixels: pixels[3 * i + c] = planes[c * plane_stride + i]. What a colour image in NCHW needs
// after it was quantized plane by plane.
#include <cstdint>
#include <span>
#include <string_view>

#include "qstep/kernels/isa.h"

namespace qstep::kernels {

struct InterleaveKernel {
  std::string_view name;
  Isa isa;
  bool (*supports)(int32_t planes);  ///< three
  void (*run)(const uint8_t* planes, int64_t plane_stride, int64_t count, uint8_t* pixels);
};

std::span<const InterleaveKernel> interleave_kernels();
const InterleaveKernel& choose_interleave(Isa isa = current_isa());

}  // namespace qstep::kernels
