#pragma once
// A network that runs in integers: an ir::Graph with its weights packed for the kernels of one instruction set.
//
// Values of four dimensions lie in memory as NHWC, others row-major; tensors that enter and leave are contiguous in
// their logical order ([N, C, H, W] for images). For each set of input shapes a plan is made once (shapes, kernels'
// scratch, one arena in which buffers share memory when their lifetimes allow) and kept for the last few. A run into
// memory of the caller with a plan that exists, in an arena that an earlier run has left, allocates nothing.
//
// Thread safety: a network is immutable after construction. Any number of threads may call any member at once: each run
// has an arena of its own, and the workers serve one run at a time; a run that finds them busy computes on its own
// thread.
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "qstep/engine/profile.h"
#include "qstep/engine/thread_pool.h"
#include "qstep/ir/graph.h"

namespace qstep::engine {

struct Options {
  std::string isa;      ///< name of an instruction set (kernels/isa.h); empty: the one in use
  int num_threads = 0;  ///< 0: as many as the machine runs at once
  /// Threads of the caller (thread_pool.h), num_threads of which work on a run; empty: those of the process's own pool.
  ParallelFor parallel_for;
};

/// A tensor of the caller: contiguous, of the kind that the value has.
struct Input {
  ir::Shape shape;
  std::variant<const float*, const uint8_t*, const int32_t*> data;  ///< real, codes or accumulators
};

/// A result: contiguous, logical order.
struct Tensor {
  ir::Shape shape;
  std::variant<std::vector<float>, std::vector<uint8_t>, std::vector<int32_t>> data;  ///< real, codes or accumulators

  friend bool operator==(const Tensor&, const Tensor&) = default;
};

/// Where a result goes: memory of the caller, as large as output_shapes() says.
using OutputPointer = std::variant<float*, uint8_t*, int32_t*>;

/// Bytes that a network and a run of it take. Runs at the same time have an arena each.
struct MemoryUse {
  int64_t arena = 0;        ///< of one run: for activations and scratch together
  int64_t activations = 0;  ///< the most that are alive at once
  int64_t scratch = 0;      ///< the most that one step needs, of all its threads
  int64_t weights = 0;      ///< as the kernels want them; some large matrices twice, for few rows and for many
  int64_t codes = 0;        ///< of the weights as a checkpoint stores them, for graph(); of no use to a run
};

class IntegerNetwork {
 public:
  /// Validates the graph and packs its weights. Throws Error for a graph that is not valid or an ISA that is not there.
  explicit IntegerNetwork(ir::Graph graph, const Options& options = {});
  ~IntegerNetwork();
  IntegerNetwork(IntegerNetwork&&) noexcept;
  IntegerNetwork& operator=(IntegerNetwork&&) noexcept;

  /// The graph, put together anew by each call: keep it while anything refers to it.
  ir::Graph graph() const;
  /// The same without the codes of its weights (ir::Weight::codes is empty): for names, shapes, grids.
  const ir::Graph& structure() const;
  std::string_view isa() const;
  int num_threads() const;

  /// Inputs in the order of structure().inputs: float values for a real input, codes in [0, quant_max] for one of codes.
  /// NaN in a real input is an Error, infinities saturate. Throws Error naming the input, or the node that cannot take
  /// its input's shape.
  std::vector<Tensor> run(std::span<const Input> inputs) const;

  /// The same into the caller's memory: one pointer for each of structure().outputs, of that value's kind.
  void run(std::span<const Input> inputs, std::span<const OutputPointer> outputs) const;

  /// Runs the network and returns the codes or accumulators of every value that is not real, by name.
  std::map<std::string, Tensor> capture(std::span<const Input> inputs) const;

  /// Runs one node on its own: an input for each of structure().nodes[node].inputs (of a value listed twice, the
  /// first counts).
  Tensor run_node(size_t node, std::span<const Input> inputs) const;

  /// Times every node in `repeats` runs, after one that is not counted. Throws as run does, and where repeats < 1.
  Profile profile(std::span<const Input> inputs, int repeats = 20) const;

  /// Index of the node called `name`; throws Error where there is none.
  size_t node_index(std::string_view name) const;

  std::vector<ir::Shape> output_shapes(const std::vector<ir::Shape>& input_shapes) const;

  /// For a run with inputs of these shapes.
  MemoryUse memory(const std::vector<ir::Shape>& input_shapes) const;

  /// Name of the kernel that runs a node: a row of a kernel table, or "view" or "copy" where codes are only moved (a
  /// reshape is a view unless its codes lie in another order).
  std::string_view kernel_name(size_t node) const;

  /// Bytes of a node's weights as its kernel wants them.
  int64_t packed_bytes(size_t node) const;

  /// Bytes of a node's weights as a checkpoint stores them, with the tables that they refer to.
  int64_t stored_bytes(size_t node) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace qstep::engine
