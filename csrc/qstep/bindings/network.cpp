// The integer network in Python, on numpy arrays.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <filesystem>
#include <optional>

#include "qstep/bindings/bindings.h"
#include "qstep/core/error.h"
#include "qstep/engine/network.h"
#include "qstep/ir/checkpoint.h"
#include "qstep/ir/weight.h"
#include "qstep/kernels/isa.h"

namespace qstep::bindings {
namespace {

using engine::Input;
using engine::IntegerNetwork;
using engine::Tensor;
using pybind11::literals::operator""_a;

// A view of a contiguous float32, uint8 or int32 array, which the caller keeps alive.
Input input_of(const py::array& array) {
  require((array.flags() & py::array::c_style) != 0, "IntegerNetwork: input arrays must be contiguous");
  Input input;
  for (py::ssize_t i = 0; i < array.ndim(); ++i) input.shape.push_back(array.shape(i));
  if (py::isinstance<py::array_t<float>>(array)) {
    input.data = static_cast<const float*>(array.data());
  } else if (py::isinstance<py::array_t<uint8_t>>(array)) {
    input.data = static_cast<const uint8_t*>(array.data());
  } else if (py::isinstance<py::array_t<int32_t>>(array)) {
    input.data = static_cast<const int32_t*>(array.data());
  } else {
    fail("IntegerNetwork: input arrays must be float32, uint8 or int32, got {}",
         py::str(array.dtype()).cast<std::string>());
  }
  return input;
}

std::vector<Input> inputs_of(const std::vector<py::array>& arrays) {
  std::vector<Input> inputs;
  inputs.reserve(arrays.size());
  for (const py::array& array : arrays) inputs.push_back(input_of(array));
  return inputs;
}

// The array owns the tensor's memory: no copy.
py::array array_of(Tensor&& tensor) {
  return std::visit(
      [&]<class T>(std::vector<T>&& data) -> py::array {
        auto owned = std::make_unique<std::vector<T>>(std::move(data));
        const T* first = owned->data();
        const py::capsule owner(owned.release(), [](void* p) { delete static_cast<std::vector<T>*>(p); });
        return py::array_t<T>(tensor.shape, first, owner);
      },
      std::move(tensor.data));
}

py::list arrays_of(std::vector<Tensor>&& tensors) {
  py::list arrays;
  for (Tensor& tensor : tensors) arrays.append(array_of(std::move(tensor)));
  return arrays;
}

int bit_width(const core::Grid& grid) {
  int bits = 1;
  while ((1 << bits) <= grid.quant_max) ++bits;
  return bits;
}

py::list nodes_of(const IntegerNetwork& net) {
  const ir::Graph& graph = net.structure();
  py::list nodes;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const ir::Node& node = graph.nodes[i];
    const ir::Value& output = graph.values[static_cast<size_t>(node.output)];
    const ir::Weight* weight = ir::weight_of(node);
    py::list inputs;
    for (const ir::ValueId id : node.inputs) inputs.append(graph.values[static_cast<size_t>(id)].name);
    py::dict entry;
    entry["name"] = node.name;
    entry["kind"] = ir::kind_name(node.operation);
    entry["inputs"] = py::tuple(inputs);
    entry["shape"] = py::tuple(py::cast(output.shape));
    entry["weight_bits"] = weight != nullptr ? py::cast(weight->bit_width) : py::none();
    const bool codes = output.kind == ir::ValueKind::codes;
    entry["act_bits"] = codes ? py::cast(bit_width(output.grid)) : py::none();
    entry["scale"] = codes ? py::cast(output.grid.scale) : py::none();
    entry["weight_encoding"] = weight != nullptr ? py::cast(ir::encoding_name(weight->encoding)) : py::none();
    entry["weight_bytes"] = net.stored_bytes(i);
    entry["kernel"] = std::string(net.kernel_name(i));
    nodes.append(entry);
  }
  return nodes;
}

py::dict profile_of(const IntegerNetwork& net, const engine::Profile& profile) {
  py::list nodes;
  for (size_t i = 0; i < profile.nodes.size(); ++i) {
    const engine::Profile::Node& node = profile.nodes[i];
    py::dict entry;
    entry["name"] = net.structure().nodes[i].name;
    entry["kind"] = ir::kind_name(net.structure().nodes[i].operation);
    entry["kernel"] = std::string(node.kernel);
    entry["shape"] = py::tuple(py::cast(node.output_shape));
    entry["seconds"] = node.seconds;
    entry["products"] = node.products;
    nodes.append(entry);
  }
  py::dict result;
  result["nodes"] = nodes;
  result["seconds"] = profile.seconds;
  result["fastest"] = profile.fastest;
  result["peak"] = profile.peak;
  return result;
}

}  // namespace

void bind_network(py::module_& m) {
  py::class_<IntegerNetwork>(m, "IntegerNetwork", "Runs a Graph; see csrc/qstep/engine/network.h.")
      .def(py::init([](const ir::Graph& graph, const std::optional<std::string>& isa, std::optional<int> num_threads) {
             require(num_threads.value_or(1) >= 1, "IntegerNetwork: num_threads must be in [1, 1024], got {}",
                     num_threads.value_or(1));
             return IntegerNetwork(graph, {.isa = isa.value_or(""), .num_threads = num_threads.value_or(0)});
           }),
           py::arg("graph"), py::arg("isa") = py::none(), py::arg("num_threads") = py::none())
      .def(
          "run",
          [](const IntegerNetwork& net, const std::vector<py::array>& arrays) {
            const std::vector<Input> inputs = inputs_of(arrays);
            std::vector<Tensor> outputs;
            {
              const py::gil_scoped_release release;
              outputs = net.run(inputs);
            }
            return arrays_of(std::move(outputs));
          },
          py::arg("inputs"))
      .def(
          "capture",
          [](const IntegerNetwork& net, const std::vector<py::array>& arrays) {
            py::dict values;
            for (auto& [name, tensor] : net.capture(inputs_of(arrays)))
              values[py::str(name)] = array_of(std::move(tensor));
            return values;
          },
          py::arg("inputs"))
      .def(
          "profile",
          [](const IntegerNetwork& net, const std::vector<py::array>& arrays, int repeats) {
            const std::vector<Input> inputs = inputs_of(arrays);
            const auto profile = [&] {
              const py::gil_scoped_release release;
              return net.profile(inputs, repeats);
            };
            return profile_of(net, profile());
          },
          py::arg("inputs"), py::arg("repeats"))
      .def(
          "run_node",
          [](const IntegerNetwork& net, const std::string& name, const std::vector<py::array>& arrays) {
            return array_of(net.run_node(net.node_index(name), inputs_of(arrays)));
          },
          py::arg("name"), py::arg("inputs"))
      .def(
          "output_scales",
          [](const IntegerNetwork& net) {
            const ir::Value& value = net.structure().values[static_cast<size_t>(net.structure().outputs.at(0))];
            return py::array_t<double>(static_cast<py::ssize_t>(value.scales.size()), value.scales.data());
          },
          "Real value of one step of the first output, per channel, where that output is accumulators.")
      .def("nodes", &nodes_of)
      .def("input_shapes",
           [](const IntegerNetwork& net) {
             std::vector<ir::Shape> shapes;
             for (const ir::ValueId id : net.structure().inputs)
               shapes.push_back(net.structure().values[static_cast<size_t>(id)].shape);
             return shapes;
           })
      .def(
          "memory",
          [](const IntegerNetwork& net, const std::vector<ir::Shape>& input_shapes) {
            const engine::MemoryUse memory = net.memory(input_shapes);
            return py::dict("arena"_a = memory.arena, "activations"_a = memory.activations,
                            "scratch"_a = memory.scratch, "weights"_a = memory.weights, "codes"_a = memory.codes);
          },
          py::arg("input_shapes"))
      .def("graph", &IntegerNetwork::graph)
      .def(
          "save", [](const IntegerNetwork& net, const std::filesystem::path& path) { ir::save(net.graph(), path); },
          py::arg("path"))
      .def("isa", [](const IntegerNetwork& net) { return std::string(net.isa()); })
      .def("num_threads", &IntegerNetwork::num_threads);

  m.def("available_isas", [] {
    std::vector<std::string> names;
    for (const kernels::Isa isa : kernels::built_isas()) {
      if (kernels::is_supported(isa)) names.emplace_back(kernels::isa_name(isa));
    }
    return names;
  });
}

}  // namespace qstep::bindings
