#pragma once
// Products by table: weights of 2 bits times codes of up to 4 (docs/numerics.md).
//
// A pair of neighbouring codes (a, b) has a table of 16 bytes, an entry for each pair of weights (v, w):
//
//   table[a][b][v, w] = a * v + b * w + quant_max * (max(-v, 0) + max(-w, 0))        in [0, quant_max * (|v| + |w|)]
//
// An instruction looks up the entries of a vector of columns at once, and they are added up in bytes. A sum over any
// depth is at most quant_max * sum|w|: a window is a run of steps for which that is below 256, and at its end sums are
// widened to 16 bits. The part of the entries that does not depend on codes, the column's offset, is taken off at the end.
//
// Codes are staged as places of tables: two bytes for each pair, in which 16 stands for the next table. Columns lie in
// vectors, and vectors in blocks that are multiplied at once. The first half of a vector's panels lies in its even bytes,
// the second in its odd ones, so that the columns of each are in order when even and odd bytes are widened.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "qstep/kernels/aligned_vector.h"
#include "qstep/kernels/gemm/gemm.h"

namespace qstep::kernels {

struct PairTableShape {
  int vector_panels;  ///< 2 or 4, a byte for each column
  int block_vectors;  ///< at most
  int table_copies;   ///< one behind the other, for instructions that take a table for each 16 bytes
};

/// Times of a tile of rows, in any unit.
struct PairTableCosts {
  double step;         ///< staging: of a step, whatever the number of columns
  double block_step;   ///< of a step of a block
  double vector_step;  ///< and of each of its vectors
  double window;       ///< of a vector
  double panel;
};

/// Packed weights, and what an Arithmetic (panel_gemm.h) on them has whatever its instructions.
class PairTables {
 public:
  using Code = std::byte;  ///< of a table's place
  static constexpr int tile_rows = 6;
  static constexpr int pair = 2;
  static constexpr int step_pairs = 4;
  static constexpr int depth_step = step_pairs * pair;
  static constexpr int depth_run = depth_step;
  static constexpr int place_bits = 4;  ///< binary digits of a table's size: those of a pair of weights
  static constexpr int most_codes = 16;

  /// True where entries and their sums fit.
  static bool fit(const GemmProblem& problem, int64_t groups, const PairTableShape& shape);

  /// A time for each panel and 4 values of its depth; infinite where they do not fit.
  static double cost(const GemmProblem& problem, int64_t groups, const PairTableShape& shape,
                     const PairTableCosts& costs);

  PairTables(const GemmProblem& problem, int64_t groups, const PairTableShape& shape);
  size_t bytes() const;

  struct Block {
    int vectors;
    const uint8_t* weights;            ///< indices of entries: [steps][step_pairs][vectors][columns of a vector]
    std::span<const int32_t> windows;  ///< lengths in steps
  };
  Block block(int64_t first_panel) const;

  const uint8_t* tables() const { return tables_.data(); }
  const int32_t* offsets(int64_t panel) const { return offsets_.data() + panel * tile_columns; }

 private:
  struct Place {
    int vectors;        // of the block that holds the panel
    size_t weights;     // where the block begins
    size_t windows;     // number of the block
    int64_t in_vector;  // panels of the vector before this one
    int64_t vector;     // of the block
  };

  std::vector<Place> places_;                  // of panels
  AlignedVector<uint8_t> tables_;              // [b][a][table_copies][entries]
  AlignedVector<uint8_t> weights_;             // [groups][blocks]
  AlignedVector<int32_t> offsets_;             // [panels][tile_columns]
  std::vector<std::vector<int32_t>> windows_;  // [groups][blocks]
};

}  // namespace qstep::kernels
