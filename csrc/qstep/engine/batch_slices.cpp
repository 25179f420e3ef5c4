#include "qstep/engine/batch_slices.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace qstep::engine {
namespace {

// Of the caches of one processor: what was written within so many bytes is found there again.
constexpr int64_t cached_bytes = 2 * 1024 * 1024;

/// Whether each image of the output depends on that image of the inputs alone.
bool is_by_image(const ir::Node& node) {
  if (const auto* concat = std::get_if<ir::Concat>(&node.operation)) return concat->axis != 0;
  const ir::Operation& op = node.operation;
  return std::holds_alternative<ir::Quantize>(op) || std::holds_alternative<ir::Conv2d>(op) ||
         std::holds_alternative<ir::Bilinear>(op) || std::holds_alternative<ir::Lookup>(op) ||
         std::holds_alternative<ir::MaxPool2d>(op) || std::holds_alternative<ir::AvgPool2d>(op);
}

/// The most images of a slice that go evenly into the batch.
int64_t slice_images(int64_t batch, int num_threads) {
  int64_t images = std::min<int64_t>(batch, num_threads);
  while (batch % images != 0) --images;
  return images;
}

}  // namespace

BatchSlices choose_slices(const ir::Graph& graph, std::span<const std::unique_ptr<NodeKernel>> kernels,
                          const Request& request, std::span<const size_t> nodes, std::span<const ir::Shape> shapes,
                          int num_threads) {
  const auto shape = [&](ir::ValueId id) -> const ir::Shape& { return shapes[static_cast<size_t>(id)]; };
  if (request.inputs.empty() || shape(request.inputs[0]).size() != 4) return {};
  const int64_t batch = shape(request.inputs[0])[0];
  const auto is_batch = [&](ir::ValueId id) { return shape(id).size() == 4 && shape(id)[0] == batch; };
  if (batch < 2 || !std::ranges::all_of(request.inputs, is_batch)) return {};
  const int64_t count = batch / slice_images(batch, num_threads);
  if (count == 1) return {};

  // Where in `nodes` a value is read for the last time.
  std::vector<size_t> last_reads(graph.values.size(), 0);
  for (size_t k = 0; k < nodes.size(); ++k) {
    for (const ir::ValueId id : graph.nodes[nodes[k]].inputs) last_reads[static_cast<size_t>(id)] = k;
  }
  for (const ir::ValueId id : request.outputs) last_reads[static_cast<size_t>(id)] = std::numeric_limits<size_t>::max();

  const auto slice_bytes = [&](ir::ValueId id) {
    const auto element = static_cast<int64_t>(element_bytes(graph.values[static_cast<size_t>(id)].kind));
    return ir::element_count(shape(id), "run") * element / count;
  };
  BatchSlices best;
  int64_t most_saved = 0;
  int64_t saved = 0;              // bytes that a slice finds in cache, less those of weights that it reads again
  size_t last_read_of_inner = 0;  // of the values before the last one
  for (size_t k = 0; k + 1 < nodes.size(); ++k) {
    const ir::Node& node = graph.nodes[nodes[k]];
    if (!is_by_image(node) || !is_batch(node.output) || !std::ranges::all_of(node.inputs, is_batch)) break;
    int64_t bytes = slice_bytes(node.output);
    for (const ir::ValueId id : node.inputs) bytes += slice_bytes(id);
    if (bytes <= cached_bytes && bytes * count > cached_bytes) saved += bytes;
    if (kernels[nodes[k]]) saved -= kernels[nodes[k]]->packed_bytes();
    const bool is_own_buffer =
        kernels[nodes[k]] != nullptr && graph.values[static_cast<size_t>(node.output)].kind == ir::ValueKind::codes;
    const size_t last_read = last_reads[static_cast<size_t>(node.output)];
    const bool is_only_result = last_read_of_inner <= k && last_read > k && last_read < nodes.size();
    if (is_own_buffer && is_only_result && saved > most_saved) {
      most_saved = saved;
      best = {k + 1, count};
    }
    last_read_of_inner = std::max(last_read_of_inner, last_read);
  }
  return best;
}

}  // namespace qstep::engine
