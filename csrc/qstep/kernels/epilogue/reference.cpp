#include <cstring>

#include "qstep/core/grid.h"
#include "qstep/kernels/epilogue/epilogue.h"

namespace qstep::kernels {

uint8_t Epilogue::clamped(int64_t steps) const {
  return static_cast<uint8_t>(core::clamp<int64_t>(steps + zero_point_, clamp_min_, clamp_max_));
}

uint8_t Epilogue::code(int32_t accumulator, int64_t channel) const {
  return clamped(core::requantize(accumulator, multipliers_[static_cast<size_t>(channel)], policy_));
}

void Epilogue::store(const int32_t* accumulators, int64_t stride, int64_t channel, const Output& output,
                     int64_t offset) const {
  if (!combiner_.empty()) {
    const int64_t steps = combiner_.steps(accumulators, stride, channel);
    if (output.codes != nullptr) {
      output.codes[offset] = clamped(steps);
    } else {
      output.accumulators[offset] = static_cast<int32_t>(steps);
    }
  } else if (is_raw()) {
    output.accumulators[offset] = *accumulators;
  } else {
    output.codes[offset] = code(*accumulators, channel);
  }
}

void Epilogue::store_reference(const AccumulatorTile& tile, const Output& output) const {
  if (!combiner_.empty()) return store_combined(tile, output);
  if (is_raw()) return store_accumulators(tile, output.accumulators);
  for (int r = 0; r < tile.rows; ++r) {
    uint8_t* row = output.codes + tile.row_offsets[r] + tile.first_channel;
    for (int c = 0; c < tile.channels; ++c) {
      row[c] = code(tile.accumulators[r * tile_columns + c], tile.first_channel + c);
    }
  }
}

void Epilogue::store_combined(const AccumulatorTile& tile, const Output& output) const {
  for (int r = 0; r < tile.rows; ++r) {
    for (int c = 0; c < tile.channels; ++c) {
      store(tile.accumulators + r * tile_columns + c, tile.sum_stride, tile.first_channel + c, output,
            tile.row_offsets[r] + tile.first_channel + c);
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
