#include "qstep/engine/plan.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "qstep/core/error.h"
#include "qstep/engine/batch_slices.h"
#include "qstep/engine/copy.h"

namespace qstep::engine {
namespace {

using ir::Node;
using ir::ValueId;

// In nanoseconds: a thread that is awake joins a step within a tenth of that.
constexpr int64_t cost_worth_threads = 10000;

class PlanMaker {
 public:
  PlanMaker(const ir::Graph& graph, std::span<const std::unique_ptr<NodeKernel>> kernels, const Request& request,
            int num_threads)
      : graph_(graph),
        kernels_(kernels),
        request_(request),
        num_threads_(num_threads),
        external_(static_cast<int32_t>(request.inputs.size() + request.outputs.size())),
        views_(graph.values.size()) {}

  Plan make() {
    select_nodes();
    infer_shapes(nodes_, request_.input_shapes);
    find_concats();
    find_last_uses();
    const BatchSlices slices = choose_slices(graph_, kernels_, request_, nodes_, shapes_, num_threads_);
    if (slices.nodes > 0) emit_slice(slices);
    view_inputs();
    for (const ValueId input : request_.inputs) deliver(input, 0);
    emit_nodes(std::span(nodes_).subspan(slices.nodes));
    measure_memory();
    plan_.arena_bytes = place(plan_.arena_buffers);
    for (const ValueId output : request_.outputs) plan_.output_shapes.push_back(shape(output));
    return std::move(plan_);
  }

 private:
  static size_t index(ValueId id) { return static_cast<size_t>(id); }
  const ir::Shape& shape(ValueId id) const { return shapes_[index(id)]; }
  const View& view(ValueId id) const { return *views_[index(id)]; }
  size_t bytes_of(ValueId id) const { return element_bytes(graph_.values[index(id)].kind); }
  int64_t bytes_in(ValueId id) const {
    return ir::element_count(shape(id), "run") * static_cast<int64_t>(bytes_of(id));
  }

  // The nodes that an output depends on.
  void select_nodes() {
    std::vector<bool> needed(graph_.values.size(), false);
    for (const ValueId id : request_.outputs) needed[index(id)] = true;
    for (size_t k = request_.nodes.size(); k-- > 0;) {
      const Node& node = graph_.nodes[request_.nodes[k]];
      if (!needed[index(node.output)]) continue;
      nodes_.push_back(request_.nodes[k]);
      for (const ValueId id : node.inputs) needed[index(id)] = true;
    }
    std::reverse(nodes_.begin(), nodes_.end());
  }

  void infer_shapes(std::span<const size_t> nodes, std::span<const ir::Shape> input_shapes) {
    shapes_.resize(graph_.values.size());
    for (size_t i = 0; i < request_.inputs.size(); ++i) shapes_[index(request_.inputs[i])] = input_shapes[i];
    for (const size_t i : nodes) {
      const Node& node = graph_.nodes[i];
      std::vector<ir::Shape> inputs;
      for (const ValueId id : node.inputs) inputs.push_back(shape(id));
      shapes_[index(node.output)] = ir::output_shape(node, inputs);
    }
  }

  void view_inputs() {
    for (size_t i = 0; i < request_.inputs.size(); ++i) {
      views_[index(request_.inputs[i])] = dense(static_cast<int32_t>(i), shape(request_.inputs[i]), Order::row_major);
    }
  }

  void emit_nodes(std::span<const size_t> nodes) {
    for (const size_t i : nodes) {
      const Node& node = graph_.nodes[i];
      node_ = i;  // nodes are in the order of execution
      views_[index(node.output)] = std::visit([&](const auto& op) { return emit(node, op); }, node.operation);
      deliver(node.output, i);
    }
  }

  // The first nodes, for one slice of the batch; their result lies in a buffer for the whole of it.
  void emit_slice(const BatchSlices& slices) {
    const std::vector<ir::Shape> whole = shapes_;
    const auto nodes = std::span(nodes_).first(slices.nodes);
    const ValueId result = graph_.nodes[nodes.back()].output;
    const Order order = kernels_[nodes.back()]->order(4);
    const View of_all = new_dense(shape(result), order, bytes_of(result));

    std::vector<ir::Shape> input_shapes = request_.input_shapes;
    for (ir::Shape& input : input_shapes) input[0] /= slices.count;
    infer_shapes(nodes, input_shapes);
    view_inputs();
    slice_output_ = dense(of_all.buffer, shape(result), order);
    slice_result_ = result;
    emit_nodes(nodes);
    slice_output_.reset();

    plan_.sliced_steps = plan_.steps.size();
    plan_.slices = slices.count;
    for (size_t i = 0; i < request_.inputs.size(); ++i) {
      const ValueId input = request_.inputs[i];
      plan_.sliced_buffers.push_back({static_cast<int32_t>(i), bytes_in(input)});
    }
    plan_.sliced_buffers.push_back({of_all.buffer, bytes_in(result)});
    shapes_ = whole;
    views_[index(result)] = of_all;
    copies_.clear();
  }

  bool is_slice_result(ValueId id) const { return slice_output_ && id == slice_result_; }

  // --- buffers ---

  // A buffer that is alive from now on, at least until the next step.
  int32_t new_buffer(int64_t bytes) {
    const auto now = static_cast<int64_t>(plan_.steps.size());
    plan_.arena_buffers.push_back({bytes, now, now, 0});
    return external_ + static_cast<int32_t>(plan_.arena_buffers.size()) - 1;
  }

  View new_dense(const ir::Shape& shape, Order order, size_t element_bytes) {
    const int64_t bytes = ir::element_count(shape, "run") * static_cast<int64_t>(element_bytes);
    return dense(new_buffer(bytes), shape, order);
  }

  void touch(int32_t buffer) {
    if (buffer >= external_)
      plan_.arena_buffers[static_cast<size_t>(buffer - external_)].last = static_cast<int64_t>(plan_.steps.size());
  }

  void measure_memory() {
    std::vector<Lifetime> activations = plan_.arena_buffers;
    for (const Plan::PlannedStep& planned : plan_.steps) {
      if (planned.scratch_buffer < 0) continue;
      Lifetime& scratch = activations[static_cast<size_t>(planned.scratch_buffer - external_)];
      plan_.scratch_bytes = std::max(plan_.scratch_bytes, scratch.bytes);
      scratch.bytes = 0;
    }
    plan_.live_bytes = largest_live_bytes(activations);
  }

  // --- steps ---

  void add_step(Step step, std::span<const View> operands) {
    for (const View& operand : operands) touch(operand.buffer);
    if (step.items == 0) return;  // an empty tensor
    Plan::PlannedStep planned{std::move(step), node_, -1, 0, 1};
    if (planned.step.cost >= cost_worth_threads)
      planned.threads = static_cast<int>(std::min<int64_t>(num_threads_, planned.step.items));
    if (planned.step.scratch_bytes > 0) {
      constexpr size_t unit = kernels::memory_alignment;
      planned.scratch_stride = static_cast<int64_t>((planned.step.scratch_bytes + unit - 1) / unit * unit);
      planned.scratch_buffer = new_buffer(planned.scratch_stride * planned.threads);
    }
    plan_.steps.push_back(std::move(planned));
  }

  void add_copy(const View& from, const View& to, size_t element_bytes) {
    const View operands[] = {from, to};
    add_step(copy_step(from, to, element_bytes), operands);
  }

  // Copies a value that the caller wants, as soon as it is there, unless it was made in the caller's memory.
  void deliver(ValueId id, size_t node) {
    node_ = node;
    if (!is_wanted(id)) return;
    const View target = external_output(id);
    if (view(id).buffer != target.buffer) add_copy(view(id), target, bytes_of(id));
  }

  bool is_wanted(ValueId id) const { return std::ranges::find(request_.outputs, id) != request_.outputs.end(); }

  View external_output(ValueId id) const {
    const auto position = std::find(request_.outputs.begin(), request_.outputs.end(), id) - request_.outputs.begin();
    return dense(static_cast<int32_t>(request_.inputs.size()) + static_cast<int32_t>(position), shape(id),
                 Order::row_major);
  }

  // --- nodes that compute ---

  template <class Operation>
  View emit(const Node& node, const Operation&) {
    const NodeKernel& kernel = *kernels_[node_];
    std::vector<View> inputs;
    for (const ValueId id : node.inputs) inputs.push_back(view(id));
    if (ir::element_count(shape(node.output), node.name) == 0) return own_output(node, kernel);

    if (!is_slice_result(node.output)) {
      // At its place in a concat, where it has one and the kernel can write there.
      if (const auto target = place_in_concat(node.output)) {
        if (auto step = kernel.bind(inputs, *target)) return add_node_step(std::move(*step), inputs, *target);
      }
      if (const auto target = place_in_operand(node, kernel)) {
        if (auto step = kernel.bind(inputs, *target)) return add_node_step(std::move(*step), inputs, *target);
      }
    }
    const View output = own_output(node, kernel);
    auto step = kernel.bind(inputs, output);
    if (!step) {
      for (size_t i = 0; i < inputs.size(); ++i) inputs[i] = usual_copy(node.inputs[i], kernel, shape(node.output));
      step = kernel.bind(inputs, output);
      require(step.has_value(), "run: node '{}' ({}) cannot take its input of shape {}", node.name,
              ir::kind_name(node.operation), fmt::join(inputs[0].shape, "x"));
    }
    return add_node_step(std::move(*step), inputs, output);
  }

  View add_node_step(Step step, std::vector<View> operands, const View& output) {
    operands.push_back(output);
    add_step(std::move(step), operands);
    return output;
  }

  // --- outputs in the place of an operand ---

  // The last node that reads a value or what only moves its codes.
  void find_last_uses() {
    last_uses_.resize(graph_.values.size(), 0);
    for (size_t k = nodes_.size(); k-- > 0;) {
      const size_t i = nodes_[k];
      const size_t until = kernels_[i] ? i : std::max(i, last_uses_[index(graph_.nodes[i].output)]);
      for (const ValueId id : graph_.nodes[i].inputs) last_uses_[index(id)] = std::max(last_uses_[index(id)], until);
    }
  }

  // Elementwise operations may write to an operand that nobody reads any more.
  std::optional<View> place_in_operand(const Node& node, const NodeKernel& kernel) const {
    if (!is_bilinear() && !std::holds_alternative<ir::Lookup>(graph_.nodes[node_].operation)) return std::nullopt;
    for (const ValueId id : node.inputs) {
      const View& operand = view(id);
      if (operand.buffer < external_ || operand.shape != shape(node.output) ||
          !is_dense(operand, kernel.order(operand.shape.size())) || is_read_later(operand.buffer)) {
        continue;
      }
      const bool overlaps = std::ranges::any_of(
          node.inputs, [&](ValueId other) { return view(other).buffer == operand.buffer && view(other) != operand; });
      if (!overlaps) return operand;
    }
    return std::nullopt;
  }

  bool is_read_later(int32_t buffer) const {
    for (size_t v = 0; v < views_.size(); ++v) {
      if (views_[v] && views_[v]->buffer == buffer && last_uses_[v] > node_) return true;
    }
    return false;
  }

  // What the caller wants as floats is made there, everything else in the arena.
  View own_output(const Node& node, const NodeKernel& kernel) {
    if (is_slice_result(node.output)) return *slice_output_;
    if (graph_.values[index(node.output)].kind == ir::ValueKind::real) {
      if (is_wanted(node.output)) return external_output(node.output);
      return new_dense(shape(node.output), Order::row_major, bytes_of(node.output));
    }
    return new_dense(shape(node.output), kernel.order(shape(node.output).size()), bytes_of(node.output));
  }

  // The value, laid out as the kernel can always take it. Copies are kept: several layers may want the same.
  View usual_copy(ValueId id, const NodeKernel& kernel, const ir::Shape& output) {
    View source = view(id);
    // An operand that is repeated along some dimensions is written out when its strides alone do not do.
    const bool repeats = source.shape.size() == output.size() && source.shape != output && is_bilinear();
    if (repeats) source = broadcast(source, output);
    const Order order = kernel.order(source.shape.size());
    if (is_dense(source, order)) return source;
    const auto key = std::pair(id, order);
    if (!repeats && copies_.contains(key)) return copies_.at(key);
    const View copy = new_dense(source.shape, order, bytes_of(id));
    add_copy(source, copy, bytes_of(id));
    if (!repeats) copies_.emplace(key, copy);
    return copy;
  }

  bool is_bilinear() const { return std::holds_alternative<ir::Bilinear>(graph_.nodes[node_].operation); }

  // --- nodes that only move codes ---

  View emit(const Node& node, const ir::Permute& op) { return permuted(view(node.inputs[0]), op.order); }

  View emit(const Node& node, const ir::Slice& op) {
    return sliced(view(node.inputs[0]), static_cast<size_t>(op.axis), op.start, op.stop, op.step);
  }

  // The border, dimension by dimension from the outside in, then the codes inside it.
  View emit(const Node& node, const ir::Pad& op) {
    const auto place = place_in_concat(node.output);
    const View output = place ? *place : new_dense(shape(node.output), usual_order(shape(node.output).size()), 1);
    const auto zero = static_cast<uint8_t>(core::zero_code(graph_.values[index(node.output)].grid));
    View rest = output;
    for (size_t axis = 0; axis < rest.shape.size(); ++axis) {
      const int64_t inside = shape(node.inputs[0])[axis];
      const int64_t begin = op.before[axis];
      const View border[] = {sliced(rest, axis, 0, begin), sliced(rest, axis, begin + inside, rest.shape[axis])};
      for (const View& part : border) add_step(fill_step(part, zero), {&part, 1});
      rest = sliced(rest, axis, begin, begin + inside);
    }
    add_copy(view(node.inputs[0]), rest, 1);
    return output;
  }

  View emit(const Node& node, const ir::Reshape&) {
    const View& input = view(node.inputs[0]);
    const ir::Shape& to = shape(node.output);
    if (const auto same = reshaped(input, to)) return *same;
    // Copied once, into the order that suits the new shape, where the old shape can be seen in that.
    const View target = new_dense(to, usual_order(to.size()), 1);
    if (const auto as_input = reshaped(target, input.shape)) {
      add_copy(input, *as_input, 1);
      return target;
    }
    const View plain = dense(target.buffer, input.shape, Order::row_major);
    add_copy(input, plain, 1);
    return *reshaped(plain, to);
  }

  View emit(const Node& node, const ir::Concat& op) {
    const View output = concat_output(node.output);
    int64_t start = 0;
    for (const ValueId id : node.inputs) {
      const int64_t stop = start + shape(id)[static_cast<size_t>(op.axis)];
      const View part = sliced(output, static_cast<size_t>(op.axis), start, stop);
      const View& input = view(id);
      const bool in_place = input.buffer == part.buffer && input.offset == part.offset;
      if (!in_place) add_copy(input, part, 1);
      start = stop;
    }
    touch(output.buffer);
    return output;
  }

  // A part of a concat: written in place by the node that makes it. Every value has at most one such place.
  struct Part {
    ValueId concat;
    size_t axis;
    int64_t start;
    int64_t stop;
  };

  void find_concats() {
    for (const size_t i : nodes_) {
      const Node& node = graph_.nodes[i];
      const auto* op = std::get_if<ir::Concat>(&node.operation);
      if (op == nullptr || shape(node.output).size() > 4) continue;
      const auto axis = static_cast<size_t>(op->axis);
      int64_t start = 0;
      for (const ValueId id : node.inputs) {
        const int64_t stop = start + shape(id)[axis];
        parts_.emplace(id, Part{node.output, axis, start, stop});  // the first place counts
        start = stop;
      }
    }
  }

  std::optional<View> place_in_concat(ValueId id) {
    const auto part = parts_.find(id);
    if (part == parts_.end()) return std::nullopt;
    return sliced(concat_output(part->second.concat), part->second.axis, part->second.start, part->second.stop);
  }

  // The whole of a concat: itself a part of another one, or a buffer of its own.
  const View& concat_output(ValueId id) {
    auto found = concats_.find(id);
    if (found == concats_.end()) {
      const auto place = place_in_concat(id);
      found = concats_.emplace(id, place ? *place : new_dense(shape(id), usual_order(shape(id).size()), 1)).first;
    }
    return found->second;
  }

  const ir::Graph& graph_;
  std::span<const std::unique_ptr<NodeKernel>> kernels_;
  const Request& request_;
  const int num_threads_;
  const int32_t external_;  // buffers of the caller
  std::vector<size_t> nodes_;
  std::vector<ir::Shape> shapes_;           // by ValueId
  std::vector<std::optional<View>> views_;  // by ValueId
  std::vector<size_t> last_uses_;           // nodes, by ValueId
  std::map<std::pair<ValueId, Order>, View> copies_;
  std::map<ValueId, Part> parts_;
  std::map<ValueId, View> concats_;
  size_t node_ = 0;                   // being planned
  std::optional<View> slice_output_;  // while a slice is planned: where its result goes
  ValueId slice_result_ = -1;
  Plan plan_;
};

}  // namespace

Plan make_plan(const ir::Graph& graph, std::span<const std::unique_ptr<NodeKernel>> kernels, const Request& request,
               int num_threads) {
  return PlanMaker(graph, kernels, request, num_threads).make();
}

}  // namespace qstep::engine
