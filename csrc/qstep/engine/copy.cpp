#include "qstep/engine/copy.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace qstep::engine {

Runs::Runs(Walk walk) : walk_(std::move(walk)) {
  for (size_t i = 0; i + 1 < walk_.sizes.size(); ++i) outer_ *= walk_.sizes[i];
  pieces_ = kernels::ceil_divide(walk_.sizes.back(), run_piece);
}

int64_t Runs::locate(int64_t item, Offsets& offsets) const {
  const int64_t begin = item % pieces_ * run_piece;
  for (size_t k = 0; k < walk_.strides.size(); ++k) offsets[k] = begin * inner_stride(k);
  int64_t rest = item / pieces_;
  for (size_t i = walk_.sizes.size() - 1; i-- > 0;) {
    const int64_t index = rest % walk_.sizes[i];
    rest /= walk_.sizes[i];
    for (size_t k = 0; k < walk_.strides.size(); ++k) offsets[k] += index * walk_.strides[k][i];
  }
  return std::min(run_piece, walk_.sizes.back() - begin);
}

namespace {

template <class T>
Step copy_elements(const View& from, const View& to) {
  const Runs runs(walk(to.shape, {&to.strides, &from.strides}));
  const int64_t to_stride = runs.inner_stride(0);
  const int64_t from_stride = runs.inner_stride(1);
  return {.items = runs.items(),
          .cost = ir::element_count(to.shape, "copy") * (to_stride == 1 && from_stride == 1 ? 1 : 8) / 16,
          .run = [=](const Memory& memory, Range items, std::byte*) {
            const T* source = memory.at<T>(from);
            T* target = memory.at<T>(to);
            runs.each(items, [&](const Runs::Offsets& offsets, int64_t count) {
              const T* x = source + offsets[1];
              T* y = target + offsets[0];
              if (to_stride == 1 && from_stride == 1) {
                std::memcpy(y, x, static_cast<size_t>(count) * sizeof(T));
              } else {
                for (int64_t i = 0; i < count; ++i) y[i * to_stride] = x[i * from_stride];
              }
            });
          }};
}

}  // namespace

Step fill_step(const View& to, uint8_t code) {
  const Runs runs(walk(to.shape, {&to.strides}));
  const int64_t stride = runs.inner_stride(0);
  return {.items = runs.items(),
          .cost = ir::element_count(to.shape, "fill") / 2,
          .run = [=](const Memory& memory, Range items, std::byte*) {
            uint8_t* target = memory.at<uint8_t>(to);
            runs.each(items, [&](const Runs::Offsets& offsets, int64_t count) {
              for (int64_t i = 0; i < count; ++i) target[offsets[0] + i * stride] = code;
            });
          }};
}

Step copy_step(const View& from, const View& to, size_t element_bytes) {
  return element_bytes == 1 ? copy_elements<uint8_t>(from, to) : copy_elements<int32_t>(from, to);
}

}  // namespace qstep::engine
