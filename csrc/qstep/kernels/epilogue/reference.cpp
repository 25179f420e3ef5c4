#include <cstring>

#include "qstep/core/grid.h"
#include "qstep/kernels/epilogue/epilogue.h"

namespace qstep::kernels {

uint8_t Epilogue::code(int32_t accumulator, int64_t channel) const {
  const int64_t code = core::requantize(accumulator, multipliers_[static_cast<size_t>(channel)], policy_) + zero_point_;
  return static_cast<uint8_t>(core::clamp<int64_t>(code, clamp_min_, clamp_max_));
}

void Epilogue::store_reference(const AccumulatorTile& tile, const Output& output) const {
  if (is_raw()) return store_accumulators(tile, output.accumulators);
  for (int r = 0; r < tile.rows; ++r) {
    uint8_t* row = output.codes + tile.row_offsets[r] + tile.first_channel;
    for (int c = 0; c < tile.channels; ++c) {
      row[c] = code(tile.accumulators[r * tile_columns + c], tile.first_channel + c);
    }
  }
}

void Epilogue::store_accumulators(const AccumulatorTile& tile, int32_t* output) const {
  for (int r = 0; r < tile.rows; ++r) {
    std::memcpy(output + tile.row_offsets[r] + tile.first_channel, tile.accumulators + r * tile_columns,
                static_cast<size_t>(tile.channels) * sizeof(int32_t));
  }
}

}  // namespace qstep::kernels
