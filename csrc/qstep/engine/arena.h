#pragma once
// One block of memory for all buffers of a run; buffers that are never alive at once share bytes.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace qstep::engine {

/// A buffer's size, when it is alive, and where it was put.
struct Lifetime {
  int64_t bytes = 0;
  int64_t first = 0;  ///< first and last step that touch it
  int64_t last = 0;
  int64_t offset = 0;  ///< set by place()
};

/// The most bytes, in whole cache lines, of buffers that are alive at once: no placement needs fewer.
int64_t largest_live_bytes(std::span<const Lifetime> buffers);

/// Gives each buffer an offset, aligned to a cache line, such that no two that are alive at once overlap: one after the
/// other at the lowest offset that is free, the larger ones first unless another order needs fewer bytes. Returns the
/// bytes needed in all.
int64_t place(std::span<Lifetime> buffers);

/// Memory aligned to a cache line, not initialized.
class Arena {
 public:
  explicit Arena(int64_t bytes);
  std::byte* data() const { return data_.get(); }
  int64_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* data) const;
  };
  int64_t bytes_;
  std::unique_ptr<std::byte, Free> data_;
};

}  // namespace qstep::engine
