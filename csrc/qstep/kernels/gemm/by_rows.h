#pragma once
// One matrix packed twice: products of few rows, which take the time of reading the weights, and products of many.
#include <cstddef>
#include <memory>

#include "qstep/kernels/gemm/panel_gemm.h"

namespace qstep::kernels {

/// Few and Many are Arithmetics; Few takes up to a tile of its own.
template <class Few, class Many>
class PackedByRows final : public PackedGemm {
 public:
  explicit PackedByRows(const GemmProblem& problem) : few_(problem), many_(problem) {}

  int64_t work_items(int64_t rows) const override { return serving(rows).work_items(rows); }
  size_t scratch_bytes(int64_t rows) const override { return serving(rows).scratch_bytes(rows); }
  size_t packed_bytes() const override { return few_.packed_bytes() + many_.packed_bytes(); }

  void run(const GemmArguments& arguments, Range items, std::byte* scratch) const override {
    serving(arguments.rows).run(arguments, items, scratch);
  }

 private:
  const PackedGemm& serving(int64_t rows) const {
    if (rows <= Few::tile_rows) return few_;
    return many_;
  }

  PackedPanelGemm<Few> few_;
  PackedPanelGemm<Many> many_;
};

/// Weights beyond which a product of few rows waits for them: as many bytes as a second-level cache has.
inline constexpr int64_t cached_weights = 1024 * 1024;

template <class Few, class Many>
bool supports_by_rows(const GemmProblem& problem) {
  return Few::supports(problem) && Many::supports(problem);
}

template <class Few, class Many>
bool suits_by_rows(const GemmProblem& problem) {
  return static_cast<int64_t>(problem.weights.size()) >= cached_weights && suits_panel_gemm<Few>(problem) &&
         suits_panel_gemm<Many>(problem);
}

template <class Few, class Many>
std::unique_ptr<PackedGemm> pack_by_rows(const GemmProblem& problem) {
  validate(problem);
  return std::make_unique<PackedByRows<Few, Many>>(problem);
}

}  // namespace qstep::kernels
