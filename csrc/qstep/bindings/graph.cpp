// Grid, Window, Target, Graph and Builder in Python.
#include <pybind11/numpy.h>
#include <pybind11/operators.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <array>
#include <optional>

#include "qstep/bindings/arrays.h"
#include "qstep/bindings/bindings.h"
#include "qstep/bindings/weight.h"
#include "qstep/core/error.h"
#include "qstep/ir/builder.h"
#include "qstep/ir/checkpoint.h"

namespace qstep::bindings {
namespace {

using ir::Builder;
using ir::Grid;
using ir::Target;
using ir::ValueId;

core::RequantPolicy policy_from_name(const std::string& name) {
  if (name == "exact") return core::RequantPolicy::exact;
  if (name == "gemmlowp") return core::RequantPolicy::gemmlowp;
  if (name == "shift") return core::RequantPolicy::shift;
  fail("Builder: policy must be 'exact', 'gemmlowp' or 'shift', got '{}'", name);
}

core::Window window(std::array<int32_t, 2> kernel, std::array<int32_t, 2> stride, std::array<int32_t, 4> padding,
                    std::array<int32_t, 2> dilation) {
  return {.kernel = {kernel[0], kernel[1]},
          .stride = {stride[0], stride[1]},
          .padding = {padding[0], padding[1], padding[2], padding[3]},
          .dilation = {dilation[0], dilation[1]}};
}

using Factors = std::optional<Array<double>>;

}  // namespace

void bind_graph(py::module_& m) {
  py::class_<Grid>(m, "Grid", "real = scale * (code - zero_point) + offset, code in [quant_min, quant_max].")
      .def(py::init([](float scale, int32_t zero_point, float offset, int32_t quant_min, int32_t quant_max) {
             return Grid{scale, zero_point, offset, quant_min, quant_max};
           }),
           py::kw_only(), py::arg("scale"), py::arg("zero_point") = 0, py::arg("offset") = 0.0F,
           py::arg("quant_min") = 0, py::arg("quant_max") = 255)
      .def_readonly("scale", &Grid::scale)
      .def_readonly("zero_point", &Grid::zero_point)
      .def_readonly("offset", &Grid::offset)
      .def_readonly("quant_min", &Grid::quant_min)
      .def_readonly("quant_max", &Grid::quant_max)
      .def(py::self == py::self)
      .def("__repr__", [](const Grid& g) {
        return fmt::format("Grid(scale={}, zero_point={}, offset={}, quant_min={}, quant_max={})", g.scale,
                           g.zero_point, g.offset, g.quant_min, g.quant_max);
      });

  py::class_<core::Window>(m, "Window", "Pairs are (height, width); padding is (top, left, bottom, right).")
      .def(py::init(&window), py::arg("kernel"), py::arg("stride"), py::arg("padding"), py::arg("dilation"));

  py::class_<Target>(m, "Target",
                     "The grid that a layer's result is requantized to, and the interval of a fused activation.")
      .def(py::init([](const Grid& grid, double low, double high) {
             return Target{grid, low, high};
           }),
           py::arg("grid"), py::arg("clamp_low"), py::arg("clamp_high"));

  py::class_<ir::Graph>(m, "Graph", "An integer network as data.")
      .def_static("load", &ir::load, py::arg("path"))
      .def("save", &ir::save, py::arg("path"))
      .def("to_bytes",
           [](const ir::Graph& graph) {
             const std::vector<uint8_t> bytes = ir::to_bytes(graph);
             return py::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
           })
      .def_static("from_bytes", [](const std::string& bytes) {
        return ir::from_bytes({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
      });

  py::class_<Builder>(m, "Builder", "Lowers real-valued layers to the integer graph; see csrc/qstep/ir/builder.h.")
      .def(py::init([](const std::string& policy) { return Builder(policy_from_name(policy)); }),
           py::arg("policy") = "exact")
      .def("input", py::overload_cast<const std::string&, std::vector<int64_t>>(&Builder::input), py::arg("name"),
           py::arg("shape"))
      .def("input", py::overload_cast<const std::string&, std::vector<int64_t>, const Grid&>(&Builder::input),
           py::arg("name"), py::arg("shape"), py::arg("grid"))
      .def("quantize", &Builder::quantize, py::arg("name"), py::arg("x"), py::arg("grid"))
      .def(
          "conv2d",
          [](Builder& b, const std::string& name, ValueId x, const core::Window& window, int32_t groups,
             const WeightArgument& weight, const Factors& factor, const Factors& bias,
             const std::optional<Target>& target) {
            return b.conv2d(name, x, window, groups, described(weight), {span(factor), span(bias)}, target);
          },
          py::arg("name"), py::arg("x"), py::arg("window"), py::arg("groups"), py::kw_only(), py::arg("weight"),
          py::arg("factor") = py::none(), py::arg("bias") = py::none(), py::arg("target") = py::none())
      .def(
          "linear",
          [](Builder& b, const std::string& name, ValueId x, const WeightArgument& weight, const Factors& factor,
             const Factors& bias, const std::optional<Target>& target) {
            return b.linear(name, x, described(weight), {span(factor), span(bias)}, target);
          },
          py::arg("name"), py::arg("x"), py::kw_only(), py::arg("weight"), py::arg("factor") = py::none(),
          py::arg("bias") = py::none(), py::arg("target") = py::none())
      .def("add", &Builder::add, py::arg("name"), py::arg("left"), py::arg("right"), py::arg("target"),
           py::arg("left_factor") = 1.0, py::arg("right_factor") = 1.0)
      .def("multiply", &Builder::multiply, py::arg("name"), py::arg("left"), py::arg("right"), py::arg("target"))
      .def(
          "lookup",
          [](Builder& b, const std::string& name, ValueId x, const std::string& function,
             const std::vector<double>& arguments,
             const Grid& grid) { return b.lookup(name, x, function, arguments, grid); },
          py::arg("name"), py::arg("x"), py::arg("function"), py::arg("arguments"), py::arg("grid"))
      .def("max_pool2d", &Builder::max_pool2d, py::arg("name"), py::arg("x"), py::arg("window"), py::arg("ceil_mode"))
      .def("avg_pool2d", &Builder::avg_pool2d, py::arg("name"), py::arg("x"), py::arg("window"), py::arg("ceil_mode"),
           py::arg("count_include_pad"), py::arg("target"), py::arg("factor") = 1.0, py::arg("divisor_override") = 0)
      .def("adaptive_avg_pool2d", &Builder::adaptive_avg_pool2d, py::arg("name"), py::arg("x"), py::arg("height"),
           py::arg("width"), py::arg("target"), py::arg("factor") = 1.0, py::arg("divisor_override") = 0)
      .def(
          "concat",
          [](Builder& b, const std::string& name, const std::vector<ValueId>& inputs, int32_t axis, const Grid& grid) {
            return b.concat(name, inputs, axis, grid);
          },
          py::arg("name"), py::arg("inputs"), py::arg("axis"), py::arg("grid"))
      .def("reshape", &Builder::reshape, py::arg("name"), py::arg("x"), py::arg("shape"))
      .def("permute", &Builder::permute, py::arg("name"), py::arg("x"), py::arg("order"))
      .def("slice", &Builder::slice, py::arg("name"), py::arg("x"), py::arg("axis"), py::arg("start"), py::arg("stop"),
           py::arg("step") = 1)
      .def("pad", &Builder::pad, py::arg("name"), py::arg("x"), py::arg("before"), py::arg("after"))
      .def("dequantize", &Builder::dequantize, py::arg("name"), py::arg("x"))
      .def("output", &Builder::output, py::arg("x"))
      .def("finish", &Builder::finish);
}

}  // namespace qstep::bindings
