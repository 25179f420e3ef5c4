#include "qstep/engine/network.h"

#include <algorithm>
#include <list>
#include <mutex>
#include <numeric>
#include <optional>
#include <thread>
#include <utility>

#include "qstep/core/error.h"
#include "qstep/engine/plan.h"

namespace qstep::engine {
namespace {

using ir::Shape;
using ir::ValueId;
using ir::ValueKind;

constexpr size_t plans_kept = 8;

ValueKind kind_of(size_t alternative) {
  static constexpr ValueKind kinds[] = {ValueKind::real, ValueKind::codes, ValueKind::accumulator};
  return kinds[alternative];
}

const char* kind_text(ValueKind kind) {
  static constexpr const char* texts[] = {"float32 values", "uint8 codes", "int32 accumulators"};
  return texts[static_cast<size_t>(kind)];
}

/// What is run: the whole network, or one node, with some of the values as outputs.
struct Program {
  std::vector<size_t> nodes;
  std::vector<ValueId> inputs;
  std::vector<ValueId> outputs;
};

template <class T>
Tensor new_tensor(const Shape& shape) {
  return {shape, std::vector<T>(static_cast<size_t>(ir::element_count(shape, "run")))};
}

Tensor new_tensor(ValueKind kind, const Shape& shape) {
  switch (kind) {
    case ValueKind::real:
      return new_tensor<float>(shape);
    case ValueKind::accumulator:
      return new_tensor<int32_t>(shape);
    case ValueKind::codes:
      break;
  }
  return new_tensor<uint8_t>(shape);
}

OutputPointer pointer_to(Tensor& tensor) {
  return std::visit([](auto& data) { return OutputPointer(data.data()); }, tensor.data);
}

std::byte* address(const OutputPointer& pointer) {
  return std::visit([](auto* data) { return reinterpret_cast<std::byte*>(data); }, pointer);
}

// Inputs are only read, but share the plan's table of buffers.
std::byte* address(const Input& input) {
  return std::visit(
      [](const auto* data) {
        return reinterpret_cast<std::byte*>(
            const_cast<std::remove_const_t<std::remove_pointer_t<decltype(data)>>*>(data));
      },
      input.data);
}

int threads_of_the_machine() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

}  // namespace

struct IntegerNetwork::State {
  ir::Graph graph;
  kernels::Isa isa;
  int num_threads;
  std::vector<std::unique_ptr<NodeKernel>> kernels;  // by node; null where codes are only moved

  struct CachedPlan {
    Program program;
    std::vector<Shape> input_shapes;
    std::shared_ptr<const Plan> plan;
  };
  std::mutex mutex;             // guards what follows
  std::list<CachedPlan> plans;  // the last used first
  std::vector<Arena> arenas;    // not in use

  const ir::Value& value(ValueId id) const { return graph.values[static_cast<size_t>(id)]; }

  Program whole() const {
    Program program{std::vector<size_t>(graph.nodes.size()), graph.inputs, graph.outputs};
    std::iota(program.nodes.begin(), program.nodes.end(), size_t{0});
    return program;
  }

  // Made under the lock: plans are made in well under a millisecond, and two threads that want the same make it once.
  std::shared_ptr<const Plan> plan(const Program& program, const std::vector<Shape>& input_shapes) {
    const std::lock_guard lock(mutex);
    const auto found = std::find_if(plans.begin(), plans.end(), [&](const CachedPlan& cached) {
      return cached.program.nodes == program.nodes && cached.program.inputs == program.inputs &&
             cached.program.outputs == program.outputs && cached.input_shapes == input_shapes;
    });
    if (found != plans.end()) {
      plans.splice(plans.begin(), plans, found);
    } else {
      const Request request{program.nodes, program.inputs, program.outputs, input_shapes};
      auto made = std::make_shared<const Plan>(make_plan(graph, kernels, request, num_threads));
      plans.push_front({program, input_shapes, std::move(made)});
      if (plans.size() > plans_kept) plans.pop_back();
    }
    return plans.front().plan;
  }

  // A free arena that is large enough; smaller ones are given up.
  Arena take_arena(int64_t bytes) {
    {
      const std::lock_guard lock(mutex);
      while (!arenas.empty()) {
        Arena arena = std::move(arenas.back());
        arenas.pop_back();
        if (arena.bytes() >= bytes) return arena;
      }
    }
    return Arena(bytes);
  }

  void return_arena(Arena arena) {
    const std::lock_guard lock(mutex);
    arenas.push_back(std::move(arena));
  }

  void check_input(ValueId id, const Input& input) const {
    const ir::Value& v = value(id);
    require(kind_of(input.data.index()) == v.kind, "run: input '{}' must be {}, got {}", v.name, kind_text(v.kind),
            kind_text(kind_of(input.data.index())));
    const int64_t count = ir::element_count(input.shape, fmt::format("run: input '{}'", v.name));
    require(count == 0 || address(input) != nullptr, "run: input '{}' has no data", v.name);
    if (v.kind != ValueKind::codes || v.grid.quant_max == 255) return;
    const uint8_t* codes = std::get<const uint8_t*>(input.data);
    uint8_t largest = 0;  // max_element needs the place and is ten times slower
    for (int64_t i = 0; i < count; ++i) largest = std::max(largest, codes[i]);
    require(largest <= v.grid.quant_max, "run: input '{}' must hold codes in [0, {}], got {}", v.name, v.grid.quant_max,
            largest);
  }

  std::vector<Shape> check_inputs(const Program& program, std::span<const Input> inputs) const {
    require(inputs.size() == program.inputs.size(), "run: expected {} inputs, got {}", program.inputs.size(),
            inputs.size());
    std::vector<Shape> shapes;
    for (size_t i = 0; i < inputs.size(); ++i) {
      check_input(program.inputs[i], inputs[i]);
      shapes.push_back(inputs[i].shape);
    }
    return shapes;
  }

  void run(const Plan& plan, std::span<const Input> inputs, std::span<const OutputPointer> outputs) {
    std::vector<std::byte*> external;
    for (const Input& input : inputs) external.push_back(address(input));
    for (const OutputPointer& output : outputs) external.push_back(address(output));
    Arena arena = take_arena(plan.arena_bytes);
    run_plan(plan, graph, external, arena);
    return_arena(std::move(arena));
  }

  std::vector<Tensor> run(const Program& program, std::span<const Input> inputs) {
    const auto made = plan(program, check_inputs(program, inputs));
    std::vector<Tensor> tensors;
    std::vector<OutputPointer> pointers;
    for (size_t i = 0; i < program.outputs.size(); ++i) {
      tensors.push_back(new_tensor(value(program.outputs[i]).kind, made->output_shapes[i]));
      pointers.push_back(pointer_to(tensors.back()));
    }
    run(*made, inputs, pointers);
    return tensors;
  }
};

IntegerNetwork::IntegerNetwork(ir::Graph graph, const Options& options) : state_(std::make_unique<State>()) {
  ir::validate(graph);
  require(options.num_threads >= 0 && options.num_threads <= 1024,
          "IntegerNetwork: num_threads must be in [0, 1024], got {}", options.num_threads);
  state_->graph = std::move(graph);
  state_->isa = options.isa.empty() ? kernels::current_isa() : kernels::isa_from_name(options.isa);
  state_->num_threads = options.num_threads == 0 ? threads_of_the_machine() : options.num_threads;
  for (const ir::Node& node : state_->graph.nodes) {
    const NodeContext context{state_->graph, node, state_->isa};
    try {
      state_->kernels.push_back(std::visit([&](const auto& op) { return prepare(context, op); }, node.operation));
    } catch (const Error& error) {
      fail("IntegerNetwork: node '{}': {}", node.name, error.what());
    }
  }
}

IntegerNetwork::~IntegerNetwork() = default;
IntegerNetwork::IntegerNetwork(IntegerNetwork&&) noexcept = default;
IntegerNetwork& IntegerNetwork::operator=(IntegerNetwork&&) noexcept = default;

const ir::Graph& IntegerNetwork::graph() const { return state_->graph; }
std::string_view IntegerNetwork::isa() const { return kernels::isa_name(state_->isa); }
int IntegerNetwork::num_threads() const { return state_->num_threads; }

std::vector<Tensor> IntegerNetwork::run(std::span<const Input> inputs) const {
  return state_->run(state_->whole(), inputs);
}

void IntegerNetwork::run(std::span<const Input> inputs, std::span<const OutputPointer> outputs) const {
  const Program program = state_->whole();
  const auto plan = state_->plan(program, state_->check_inputs(program, inputs));
  require(outputs.size() == program.outputs.size(), "run: expected {} outputs, got {}", program.outputs.size(),
          outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    const ir::Value& value = state_->value(program.outputs[i]);
    require(kind_of(outputs[i].index()) == value.kind, "run: output '{}' must be {}, got a pointer to {}", value.name,
            kind_text(value.kind), kind_text(kind_of(outputs[i].index())));
  }
  state_->run(*plan, inputs, outputs);
}

std::map<std::string, Tensor> IntegerNetwork::capture(std::span<const Input> inputs) const {
  Program program = state_->whole();
  program.outputs.clear();
  for (size_t i = 0; i < graph().values.size(); ++i) {
    if (graph().values[i].kind != ValueKind::real) program.outputs.push_back(static_cast<ValueId>(i));
  }
  std::vector<Tensor> tensors = state_->run(program, inputs);
  std::map<std::string, Tensor> by_name;
  for (size_t i = 0; i < tensors.size(); ++i)
    by_name.emplace(state_->value(program.outputs[i]).name, std::move(tensors[i]));
  return by_name;
}

Tensor IntegerNetwork::run_node(size_t node, std::span<const Input> inputs) const {
  require(node < graph().nodes.size(), "run_node: node must be in [0, {}), got {}", graph().nodes.size(), node);
  const ir::Node& found = graph().nodes[node];
  require(inputs.size() == found.inputs.size(), "run_node: node '{}' takes {} inputs, got {}", found.name,
          found.inputs.size(), inputs.size());
  Program program{{node}, {}, {found.output}};
  std::vector<Input> distinct;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (std::find(program.inputs.begin(), program.inputs.end(), found.inputs[i]) != program.inputs.end()) continue;
    program.inputs.push_back(found.inputs[i]);
    distinct.push_back(inputs[i]);
  }
  return std::move(state_->run(program, distinct).front());
}

size_t IntegerNetwork::node_index(std::string_view name) const {
  const auto& nodes = graph().nodes;
  const auto found = std::find_if(nodes.begin(), nodes.end(), [&](const ir::Node& node) { return node.name == name; });
  require(found != nodes.end(), "IntegerNetwork: no node is called '{}'", name);
  return static_cast<size_t>(found - nodes.begin());
}

std::vector<Shape> IntegerNetwork::output_shapes(const std::vector<Shape>& input_shapes) const {
  const std::vector<Shape> shapes = ir::infer_shapes(graph(), input_shapes);
  std::vector<Shape> result;
  for (const ValueId id : graph().outputs) result.push_back(shapes[static_cast<size_t>(id)]);
  return result;
}

int64_t IntegerNetwork::arena_bytes(const std::vector<Shape>& input_shapes) const {
  ir::infer_shapes(graph(), input_shapes);  // checks them
  return state_->plan(state_->whole(), input_shapes)->arena_bytes;
}

std::string_view IntegerNetwork::kernel_name(size_t node) const {
  require(node < graph().nodes.size(), "kernel_name: node must be in [0, {}), got {}", graph().nodes.size(), node);
  if (const auto& kernel = state_->kernels[node]) return kernel->name();
  const ir::Operation& operation = graph().nodes[node].operation;
  const bool copies = std::holds_alternative<ir::Concat>(operation) || std::holds_alternative<ir::Pad>(operation);
  return copies ? "copy" : "view";
}

int64_t IntegerNetwork::packed_bytes(size_t node) const {
  require(node < graph().nodes.size(), "packed_bytes: node must be in [0, {}), got {}", graph().nodes.size(), node);
  return state_->kernels[node] ? state_->kernels[node]->packed_bytes() : 0;
}

}  // namespace qstep::engine
