#include "qstep/engine/network.h"

#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <list>
#include <mutex>
#include <numeric>
#include <thread>
#include <utility>

#include "qstep/core/error.h"
#include "qstep/engine/plan.h"
#include "qstep/engine/run_plan.h"
#include "qstep/ir/weight.h"
#include "qstep/ir/weight_storage.h"
#include "qstep/kernels/peak/peak.h"

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

  friend bool operator==(const Program&, const Program&) = default;
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

std::vector<OutputPointer> pointers_to(std::vector<Tensor>& tensors) {
  std::vector<OutputPointer> pointers;
  for (Tensor& tensor : tensors) {
    pointers.push_back(std::visit([](auto& data) { return OutputPointer(data.data()); }, tensor.data));
  }
  return pointers;
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

// Vectorized, which std::max_element is not: it looks for the place, too.
uint8_t largest_code(const uint8_t* codes, int64_t count) {
  uint8_t largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, codes[i]);
  return largest;
}

/// That this process may run on.
int available_processors() {
#if defined(__linux__)
  cpu_set_t processors;
  if (sched_getaffinity(0, sizeof(processors), &processors) == 0) return std::max(1, CPU_COUNT(&processors));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace

struct IntegerNetwork::State {
  ir::Graph graph;                          // without the codes of its weights
  std::vector<std::vector<uint8_t>> codes;  // they are here, by node, as a checkpoint stores them
  kernels::Isa isa;
  int num_threads;
  ParallelFor parallel_for;
  std::vector<std::unique_ptr<NodeKernel>> kernels;  // by node; null where codes are only moved

  Program whole;  // the network

  struct CachedPlan {
    Program program;
    std::vector<Shape> input_shapes;
    std::shared_ptr<const Plan> plan;
  };
  struct Workspace {
    Arena arena;
    std::vector<std::byte*> buffers;  // addresses
  };
  std::mutex mutex;                   // guards what follows
  std::list<CachedPlan> plans;        // the last used first
  std::vector<Workspace> workspaces;  // not in use

  const ir::Value& value(ValueId id) const { return graph.values[static_cast<size_t>(id)]; }

  // Made under the lock: plans are made in well under a millisecond, and two threads that want the same make it once.
  std::shared_ptr<const Plan> plan(const Program& program, std::span<const Input> inputs) {
    const std::lock_guard lock(mutex);
    const auto found = std::find_if(plans.begin(), plans.end(), [&](const CachedPlan& cached) {
      return cached.program == program && std::ranges::equal(cached.input_shapes, inputs, {}, {}, &Input::shape);
    });
    if (found != plans.end()) {
      plans.splice(plans.begin(), plans, found);
    } else {
      Request request{program.nodes, program.inputs, program.outputs, {}};
      for (size_t i = 0; i < inputs.size(); ++i) {
        ir::element_count(inputs[i].shape, fmt::format("run: input '{}'", value(program.inputs[i]).name));
        request.input_shapes.push_back(inputs[i].shape);
      }
      auto made = std::make_shared<const Plan>(make_plan(graph, kernels, request, num_threads));
      plans.push_front({program, std::move(request.input_shapes), std::move(made)});
      if (plans.size() > plans_kept) plans.pop_back();
    }
    return plans.front().plan;
  }

  // With a free arena that is large enough; smaller ones are given up.
  Workspace take_workspace(int64_t bytes) {
    {
      const std::lock_guard lock(mutex);
      while (!workspaces.empty()) {
        Workspace workspace = std::move(workspaces.back());
        workspaces.pop_back();
        if (workspace.arena.bytes() >= bytes) return workspace;
      }
    }
    return {Arena(bytes), {}};
  }

  void return_workspace(Workspace workspace) {
    const std::lock_guard lock(mutex);
    workspaces.push_back(std::move(workspace));
  }

  void check_kind(ValueId id, const Input& input) const {
    const ir::Value& v = value(id);
    require(kind_of(input.data.index()) == v.kind, "run: input '{}' must be {}, got {}", v.name, kind_text(v.kind),
            kind_text(kind_of(input.data.index())));
  }

  void check_data(ValueId id, const Input& input) const {
    const ir::Value& v = value(id);
    const int64_t count = ir::element_count(input.shape, v.name);
    require(count == 0 || address(input) != nullptr, "run: input '{}' has no data", v.name);
    if (v.kind != ValueKind::codes || v.grid.quant_max == 255) return;
    const uint8_t largest = largest_code(std::get<const uint8_t*>(input.data), count);
    require(largest <= v.grid.quant_max, "run: input '{}' must hold codes in [0, {}], got {}", v.name, v.grid.quant_max,
            largest);
  }

  // The plan for inputs that it can take.
  std::shared_ptr<const Plan> plan_for(const Program& program, std::span<const Input> inputs) {
    require(inputs.size() == program.inputs.size(), "run: expected {} inputs, got {}", program.inputs.size(),
            inputs.size());
    for (size_t i = 0; i < inputs.size(); ++i) check_kind(program.inputs[i], inputs[i]);
    auto made = plan(program, inputs);
    for (size_t i = 0; i < inputs.size(); ++i) check_data(program.inputs[i], inputs[i]);
    return made;
  }

  void run(const Plan& plan, std::span<const Input> inputs, std::span<const OutputPointer> outputs,
           std::span<double> seconds = {}) {
    Workspace workspace = take_workspace(plan.arena_bytes);
    workspace.buffers.clear();
    for (const Input& input : inputs) workspace.buffers.push_back(address(input));
    for (const OutputPointer& output : outputs) workspace.buffers.push_back(address(output));
    for (const Lifetime& buffer : plan.arena_buffers)
      workspace.buffers.push_back(workspace.arena.data() + buffer.offset);
    run_plan(plan, graph, parallel_for, workspace.buffers, seconds);
    return_workspace(std::move(workspace));
  }

  std::vector<Tensor> new_outputs(const Program& program, const Plan& plan) const {
    std::vector<Tensor> tensors;
    for (size_t i = 0; i < program.outputs.size(); ++i) {
      tensors.push_back(new_tensor(value(program.outputs[i]).kind, plan.output_shapes[i]));
    }
    return tensors;
  }

  std::vector<Tensor> run(const Program& program, std::span<const Input> inputs) {
    const auto made = plan_for(program, inputs);
    std::vector<Tensor> tensors = new_outputs(program, *made);
    run(*made, inputs, pointers_to(tensors));
    return tensors;
  }
};

IntegerNetwork::IntegerNetwork(ir::Graph graph, const Options& options) : state_(std::make_unique<State>()) {
  ir::validate(graph);
  require(options.num_threads >= 0 && options.num_threads <= 1024,
          "IntegerNetwork: num_threads must be in [0, 1024], got {}", options.num_threads);
  state_->graph = std::move(graph);
  state_->isa = options.isa.empty() ? kernels::current_isa() : kernels::isa_from_name(options.isa);
  state_->num_threads = options.num_threads == 0 ? available_processors() : options.num_threads;
  state_->parallel_for = options.parallel_for;
  for (ir::Node& node : state_->graph.nodes) {
    const NodeContext context{state_->graph, node, state_->isa};
    try {
      state_->kernels.push_back(std::visit([&](const auto& op) { return prepare(context, op); }, node.operation));
    } catch (const Error& error) {
      fail("IntegerNetwork: node '{}': {}", node.name, error.what());
    }
    auto& codes = state_->codes.emplace_back();
    if (ir::Weight* weight = ir::weight_of(node)) {
      codes = ir::store_codes(*weight);
      codes.shrink_to_fit();
      weight->codes = {};
    }
  }
  state_->whole = {std::vector<size_t>(state_->graph.nodes.size()), state_->graph.inputs, state_->graph.outputs};
  std::iota(state_->whole.nodes.begin(), state_->whole.nodes.end(), size_t{0});
}

IntegerNetwork::~IntegerNetwork() = default;
IntegerNetwork::IntegerNetwork(IntegerNetwork&&) noexcept = default;
IntegerNetwork& IntegerNetwork::operator=(IntegerNetwork&&) noexcept = default;

const ir::Graph& IntegerNetwork::structure() const { return state_->graph; }
ir::Graph IntegerNetwork::graph() const {
  ir::Graph graph = state_->graph;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    ir::Node& node = graph.nodes[i];
    if (ir::Weight* weight = ir::weight_of(node)) {
      ir::restore_codes(state_->codes[i], ir::element_count(weight->shape, node.name), *weight, node.name);
    }
  }
  return graph;
}

std::string_view IntegerNetwork::isa() const { return kernels::isa_name(state_->isa); }
int IntegerNetwork::num_threads() const { return state_->num_threads; }

std::vector<Tensor> IntegerNetwork::run(std::span<const Input> inputs) const {
  return state_->run(state_->whole, inputs);
}

void IntegerNetwork::run(std::span<const Input> inputs, std::span<const OutputPointer> outputs) const {
  const Program& program = state_->whole;
  const auto plan = state_->plan_for(program, inputs);
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
  Program program = state_->whole;
  program.outputs.clear();
  for (size_t i = 0; i < structure().values.size(); ++i) {
    if (structure().values[i].kind != ValueKind::real) program.outputs.push_back(static_cast<ValueId>(i));
  }
  std::vector<Tensor> tensors = state_->run(program, inputs);
  std::map<std::string, Tensor> by_name;
  for (size_t i = 0; i < tensors.size(); ++i)
    by_name.emplace(state_->value(program.outputs[i]).name, std::move(tensors[i]));
  return by_name;
}

Tensor IntegerNetwork::run_node(size_t node, std::span<const Input> inputs) const {
  require(node < structure().nodes.size(), "run_node: node must be in [0, {}), got {}", structure().nodes.size(), node);
  const ir::Node& found = structure().nodes[node];
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

Profile IntegerNetwork::profile(std::span<const Input> inputs, int repeats) const {
  require(repeats >= 1, "profile: repeats must be at least 1, got {}", repeats);
  const auto plan = state_->plan_for(state_->whole, inputs);
  std::vector<Tensor> outputs = state_->new_outputs(state_->whole, *plan);
  const std::vector<OutputPointer> pointers = pointers_to(outputs);
  std::vector<std::vector<double>> of_nodes(structure().nodes.size());  // one for each run
  std::vector<double> of_runs;
  std::vector<double> of_steps(plan->steps.size());
  state_->run(*plan, inputs, pointers);
  for (int repeat = 0; repeat < repeats; ++repeat) {
    state_->run(*plan, inputs, pointers, of_steps);
    for (std::vector<double>& times : of_nodes) times.push_back(0);
    for (size_t i = 0; i < of_steps.size(); ++i) of_nodes[plan->steps[i].node].back() += of_steps[i];
    of_runs.push_back(std::accumulate(of_steps.begin(), of_steps.end(), 0.0));
  }

  std::vector<Shape> input_shapes;
  for (const Input& input : inputs) input_shapes.push_back(input.shape);
  const std::vector<Shape> shapes = ir::infer_shapes(structure(), input_shapes);
  Profile profile{.nodes = {},
                  .seconds = median(of_runs),
                  .fastest = std::ranges::min(of_runs),
                  .peak = kernels::measure_peak(state_->isa) * num_threads(),
                  .threads = num_threads()};
  for (size_t i = 0; i < structure().nodes.size(); ++i) {
    const ir::Node& node = structure().nodes[i];
    const Shape& output = shapes[static_cast<size_t>(node.output)];
    profile.nodes.push_back({kernel_name(i), median(of_nodes[i]), product_count(node, output), output});
  }
  return profile;
}

size_t IntegerNetwork::node_index(std::string_view name) const {
  const auto& nodes = structure().nodes;
  const auto found = std::find_if(nodes.begin(), nodes.end(), [&](const ir::Node& node) { return node.name == name; });
  require(found != nodes.end(), "IntegerNetwork: no node is called '{}'", name);
  return static_cast<size_t>(found - nodes.begin());
}

std::vector<Shape> IntegerNetwork::output_shapes(const std::vector<Shape>& input_shapes) const {
  const std::vector<Shape> shapes = ir::infer_shapes(structure(), input_shapes);
  std::vector<Shape> result;
  for (const ValueId id : structure().outputs) result.push_back(shapes[static_cast<size_t>(id)]);
  return result;
}

MemoryUse IntegerNetwork::memory(const std::vector<Shape>& input_shapes) const {
  ir::infer_shapes(structure(), input_shapes);  // checks them
  std::vector<Input> inputs;
  for (const Shape& shape : input_shapes) inputs.push_back({shape, {}});
  const auto plan = state_->plan(state_->whole, inputs);
  MemoryUse memory{.arena = plan->arena_bytes, .activations = plan->live_bytes, .scratch = plan->scratch_bytes};
  for (size_t i = 0; i < structure().nodes.size(); ++i) {
    memory.weights += packed_bytes(i);
    memory.codes += static_cast<int64_t>(state_->codes[i].size());
  }
  return memory;
}

std::string_view IntegerNetwork::kernel_name(size_t node) const {
  require(node < structure().nodes.size(), "kernel_name: node must be in [0, {}), got {}", structure().nodes.size(),
          node);
  if (const auto& kernel = state_->kernels[node]) return kernel->name();
  const ir::Operation& operation = structure().nodes[node].operation;
  const bool copies = std::holds_alternative<ir::Concat>(operation) || std::holds_alternative<ir::Pad>(operation);
  return copies ? "copy" : "view";
}

int64_t IntegerNetwork::packed_bytes(size_t node) const {
  require(node < structure().nodes.size(), "packed_bytes: node must be in [0, {}), got {}", structure().nodes.size(),
          node);
  return state_->kernels[node] ? state_->kernels[node]->packed_bytes() : 0;
}

int64_t IntegerNetwork::stored_bytes(size_t node) const {
  require(node < structure().nodes.size(), "stored_bytes: node must be in [0, {}), got {}", structure().nodes.size(),
          node);
  const ir::Weight* weight = ir::weight_of(structure().nodes[node]);
  return static_cast<int64_t>(state_->codes[node].size()) + (weight != nullptr ? ir::table_bytes(*weight) : 0);
}

}  // namespace qstep::engine
