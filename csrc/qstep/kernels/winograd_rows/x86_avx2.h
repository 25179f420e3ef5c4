#pragma once
#include <cstdint>

#include "qstep/kernels/epilogue/epilogue.h"
#include "qstep/kernels/winograd_rows/rows_conv2d.h"

namespace qstep::kernels::winograd_rows::avx2 {

/// vpmaddwd on data and weights in int16: 2 * 21 * 255 * 2^15 is below 2^31.
struct Madd16 {
  static constexpr int tile_groups = 6;
  static constexpr int input_groups = 2;

  static void transform_input(const uint8_t* codes, int64_t channels, int64_t groups, int16_t* data,
                              int64_t position_stride);
  static void multiply(const Product& product);
  static void transform_output(const int32_t* sums, int groups, int32_t* accumulators);
  static void finish(const Epilogue& epilogue, const AccumulatorTile& tile, const Output& output) {
    epilogue.store_avx2(tile, output);
  }

  static bool makes_codes(const Epilogue& epilogue) { return epilogue.float_factors() != nullptr; }
  static void transform_to_codes(const int32_t* sums, const Epilogue& epilogue, const AccumulatorTile& where,
                                 uint8_t* codes);
};

}  // namespace qstep::kernels::winograd_rows::avx2
