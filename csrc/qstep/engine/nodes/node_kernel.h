#pragma once
// A node of the graph made ready for one instruction set: its kernel chosen from the table, its weights packed.
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "qstep/engine/step.h"
#include "qstep/ir/graph.h"
#include "qstep/kernels/isa.h"

namespace qstep::engine {

/// Immutable: any number of plans may use it.
class NodeKernel {
 public:
  virtual ~NodeKernel() = default;

  /// The kernel's name in its table.
  virtual std::string_view name() const = 0;
  virtual int64_t packed_bytes() const { return 0; }

  /// How the output lies best, and inputs that have to be copied.
  virtual Order order(size_t rank) const { return usual_order(rank); }

  /// The step for operands that lie like this; nothing where the kernel cannot walk them. Dense operands in order()
  /// always work.
  virtual std::optional<Step> bind(std::span<const View> inputs, const View& output) const = 0;
};

/// Everything that a node's kernel depends on.
struct NodeContext {
  const ir::Graph& graph;
  const ir::Node& node;
  kernels::Isa isa;

  const ir::Value& input(size_t i) const { return graph.values[static_cast<size_t>(node.inputs[i])]; }
  const ir::Value& output() const { return graph.values[static_cast<size_t>(node.output)]; }
};

// One function for each kind of node that computes something.
std::unique_ptr<NodeKernel> prepare(const NodeContext& context, const ir::Quantize& op);
std::unique_ptr<NodeKernel> prepare(const NodeContext& context, const ir::Conv2d& op);
std::unique_ptr<NodeKernel> prepare(const NodeContext& context, const ir::Linear& op);
std::unique_ptr<NodeKernel> prepare(const NodeContext& context, const ir::Bilinear& op);
std::unique_ptr<NodeKernel> prepare(const NodeContext& context, const ir::Lookup& op);
std::unique_ptr<NodeKernel> prepare(const NodeContext& context, const ir::MaxPool2d& op);
std::unique_ptr<NodeKernel> prepare(const NodeContext& context, const ir::AvgPool2d& op);
std::unique_ptr<NodeKernel> prepare(const NodeContext& context, const ir::Dequantize& op);

// These only move codes: the plan makes views of them, or copies.
inline std::unique_ptr<NodeKernel> prepare(const NodeContext&, const ir::Concat&) { return nullptr; }
inline std::unique_ptr<NodeKernel> prepare(const NodeContext&, const ir::Reshape&) { return nullptr; }
inline std::unique_ptr<NodeKernel> prepare(const NodeContext&, const ir::Permute&) { return nullptr; }
inline std::unique_ptr<NodeKernel> prepare(const NodeContext&, const ir::Slice&) { return nullptr; }
inline std::unique_ptr<NodeKernel> prepare(const NodeContext&, const ir::Pad&) { return nullptr; }

}  // namespace qstep::engine
