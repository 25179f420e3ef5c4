#pragma once
// Data movement between views of one shape; no arithmetic.
#include <array>

#include "qstep/engine/step.h"

namespace qstep::engine {

/// Pieces of at most this many elements let threads share a long contiguous run.
inline constexpr int64_t run_piece = 1 << 14;

/// The innermost runs of a walk, as work items.
class Runs {
 public:
  using Offsets = std::array<int64_t, 3>;  // of up to three operands

  explicit Runs(Walk walk);

  int64_t items() const { return outer_ * pieces_; }

  /// Calls visit(offsets of the operands, count) for the runs of `items`; the strides inside a run are inner_stride().
  template <class Visit>
  void each(Range items, Visit&& visit) const {
    Offsets offsets{};
    for (int64_t item = items.begin; item < items.end; ++item) {
      const int64_t count = locate(item, offsets);
      visit(offsets, count);
    }
  }

  int64_t inner_stride(size_t operand) const { return walk_.strides[operand].back(); }

 private:
  int64_t locate(int64_t item, Offsets& offsets) const;

  Walk walk_;
  int64_t outer_ = 1;   // runs
  int64_t pieces_ = 1;  // of each run
};

/// Writes one code everywhere.
Step fill_step(const View& to, uint8_t code);

/// Copies elements of 1 or 4 bytes.
Step copy_step(const View& from, const View& to, size_t element_bytes);

}  // namespace qstep::engine
