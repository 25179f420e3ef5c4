#include "qstep/engine/batch_slices.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace qstep::engine {
namespace {

// Of the caches of one processor: what was written within so many bytes is found there again.
constexpr int64_t cached_bytes = 2 * 1024 * 1024;

// Of the operands of a slice's widest step, for each thread: with fewer, waking a second thread takes what it saves.
constexpr int64_t bytes_worth_a_thread = 64 * 1024;

/// Whether each image of the output depends on that image of the inputs alone.
bool is_by_image(const ir::Node& node) {
  if (const auto* concat = std::get_if<ir::Concat>(&node.operation)) return concat->axis != 0;
  const ir::Operation& op = node.operation;
  return std::holds_alternative<ir::Quantize>(op) || std::holds_alternative<ir::Conv2d>(op) ||
         std::holds_alternative<ir::Bilinear>(op) || std::holds_alternative<ir::Lookup>(op) ||
         std::holds_alternative<ir::MaxPool2d>(op) || std::holds_alternative<ir::AvgPool2d>(op);
}

/// A request whose values are all known, for one size of slices after another.
class Chooser {
 public:
  Chooser(const ir::Graph& graph, std::span<const std::unique_ptr<NodeKernel>> kernels, const Request& request,
          std::span<const size_t> nodes, std::span<const ir::Shape> shapes, int num_threads)
      : graph_(graph),
        kernels_(kernels),
        nodes_(nodes),
        shapes_(shapes),
        num_threads_(num_threads),
        last_reads_(graph.values.size(), 0) {
    for (size_t k = 0; k < nodes.size(); ++k) {
      for (const ir::ValueId id : node(k).inputs) last_reads_[static_cast<size_t>(id)] = k;
    }
    for (const ir::ValueId id : request.outputs) {
      last_reads_[static_cast<size_t>(id)] = std::numeric_limits<size_t>::max();
    }
    const bool has_images = !request.inputs.empty() && shape(request.inputs[0]).size() == 4;
    if (has_images) batch_ = shape(request.inputs[0])[0];
    if (!std::ranges::all_of(request.inputs, [&](ir::ValueId id) { return is_batch(id); })) batch_ = 0;
  }

  /// Of slices that save the same, the largest: they read weights less often.
  BatchSlices choose() const {
    Saving best;
    for (int64_t images = batch_ / 2; images >= 1; --images) {
      if (batch_ % images != 0) continue;
      const Saving saving = with_slices(batch_ / images);
      if (saving.bytes > best.bytes) best = saving;
    }
    return best.slices;
  }

 private:
  struct Saving {
    BatchSlices slices;
    int64_t bytes = 0;  ///< that are found in cache, less those of weights that are read again
  };

  const ir::Node& node(size_t k) const { return graph_.nodes[nodes_[k]]; }
  const ir::Shape& shape(ir::ValueId id) const { return shapes_[static_cast<size_t>(id)]; }
  bool is_batch(ir::ValueId id) const { return shape(id).size() == 4 && shape(id)[0] == batch_; }

  int64_t bytes(ir::ValueId id) const {
    const ir::ValueKind kind = graph_.values[static_cast<size_t>(id)].kind;
    return ir::element_count(shape(id), "run") * static_cast<int64_t>(element_bytes(kind));
  }

  Saving with_slices(int64_t count) const {
    const int64_t cached = cached_bytes * num_threads_;
    Saving best;
    int64_t saved = 0;
    int64_t widest = 0;
    size_t last_read_of_inner = 0;  // of the values before the last one
    for (size_t k = 0; k + 1 < nodes_.size(); ++k) {
      const ir::Node& node = this->node(k);
      const auto& kernel = kernels_[nodes_[k]];
      if (!is_by_image(node) || !is_batch(node.output)) break;
      if (!std::ranges::all_of(node.inputs, [&](ir::ValueId id) { return is_batch(id); })) break;
      int64_t operands = bytes(node.output);
      for (const ir::ValueId id : node.inputs) operands += bytes(id);
      widest = std::max(widest, operands / count);
      if (operands > cached && operands / count <= cached) saved += operands;
      if (kernel) saved -= (count - 1) * kernel->packed_bytes();

      const bool is_codes = graph_.values[static_cast<size_t>(node.output)].kind == ir::ValueKind::codes;
      const size_t last_read = last_reads_[static_cast<size_t>(node.output)];
      const bool is_only_result = last_read_of_inner <= k && last_read > k && last_read < nodes_.size();
      const bool is_worth_threads = widest >= num_threads_ * bytes_worth_a_thread;
      if (kernel && is_codes && is_only_result && is_worth_threads && saved > best.bytes) {
        best = {{k + 1, count}, saved};
      }
      last_read_of_inner = std::max(last_read_of_inner, last_read);
    }
    return best;
  }

  const ir::Graph& graph_;
  std::span<const std::unique_ptr<NodeKernel>> kernels_;
  std::span<const size_t> nodes_;
  std::span<const ir::Shape> shapes_;
  const int64_t num_threads_;
  int64_t batch_ = 0;
  std::vector<size_t> last_reads_;  // where in nodes_, by ValueId; beyond them all for what the caller wants
};

}  // namespace

BatchSlices choose_slices(const ir::Graph& graph, std::span<const std::unique_ptr<NodeKernel>> kernels,
                          const Request& request, std::span<const size_t> nodes, std::span<const ir::Shape> shapes,
                          int num_threads) {
  return Chooser(graph, kernels, request, nodes, shapes, num_threads).choose();
}

}  // namespace qstep::engine
