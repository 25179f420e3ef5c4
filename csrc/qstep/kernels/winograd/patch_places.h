#pragma once
// The order in which a chunk's patches lie in scratch.
#include <cstdint>

#include "qstep/kernels/layout.h"
#include "qstep/kernels/winograd/transform.h"

namespace qstep::kernels::winograd {

/// A pixel for each patch.
ImageLayout patch_grid(const ImageLayout& output);

/// A patch at the right edge of an image of odd width has no right outputs, and these alone need the sums of the last
/// column; so it is below with the last row. Patches are placed so that those that need a position are neighbours: first
/// those at the bottom edge, then all that are whole, those at the right edge, and those at both.
class PatchPlaces {
 public:
  static constexpr int64_t most = 196;  ///< patches

  /// Of the patches in the range, counted in the order of patch_grid.
  PatchPlaces(const ImageLayout& output, Range patches);

  const int32_t* places() const { return places_; }        ///< in the order of the grid
  const PatchExtent* extents() const { return extents_; }  ///< by place
  const int64_t* offsets() const { return offsets_; }  ///< of the outputs inside the image, patch by patch, by place

  /// Places of the patches that need the sums at a position, of which there are `sides` rows and columns.
  Range wanted_at(int position, int sides) const;

 private:
  enum Kind { at_bottom, whole, at_right, at_both, kinds };

  int32_t places_[most];
  PatchExtent extents_[most];
  int64_t offsets_[most * patch_outputs * patch_outputs];
  int32_t begins_[kinds + 1] = {};
};

}  // namespace qstep::kernels::winograd
