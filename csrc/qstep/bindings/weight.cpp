// UniformWeight, PowerOfTwoWeight, CodeBookWeight and PiecewiseWeight in Python.
#include "qstep/bindings/weight.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <limits>
#include <optional>
#include <string>

#include "qstep/bindings/arrays.h"
#include "qstep/bindings/bindings.h"
#include "qstep/core/error.h"

namespace qstep::bindings {
namespace {

std::vector<int64_t> shape_of(const py::array& array) { return {array.shape(), array.shape() + array.ndim()}; }

std::string shape_text(const py::array& array) { return py::str(array.attr("shape")).cast<std::string>(); }

template <class T>
std::vector<T> copy(const Array<T>& array) {
  return {array.data(), array.data() + array.size()};
}

// Integers of any type that fit T: a cast alone would wrap what does not.
template <class T>
std::vector<T> integers(const char* what, const py::array& array) {
  const char kind = array.dtype().kind();
  require(kind == 'i' || kind == 'u' || kind == 'b', "{}: must be an array of integers, got {}", what,
          py::str(array.dtype()).cast<std::string>());
  std::vector<T> result;
  for (const int64_t value : copy(Array<int64_t>(array))) {
    require(value >= std::numeric_limits<T>::min() && value <= std::numeric_limits<T>::max(),
            "{}: must be in [{}, {}], got {}", what, std::numeric_limits<T>::min(), std::numeric_limits<T>::max(),
            value);
    result.push_back(static_cast<T>(value));
  }
  return result;
}

OwnedUniformWeight make_uniform(const Array<float>& values, const Array<float>& scale, int32_t zero_point,
                                int32_t quant_min, int32_t quant_max) {
  return {shape_of(values), copy(values), copy(scale), zero_point, quant_min, quant_max};
}

OwnedPowerOfTwoWeight make_power_of_two(const Array<float>& values, int32_t bit_width, int32_t max_exponent,
                                        bool variable_length) {
  return {shape_of(values), copy(values), bit_width, max_exponent, variable_length};
}

OwnedCodeBookWeight make_code_book(const Array<float>& values, const Array<float>& scale, const py::array& levels) {
  require(levels.ndim() == 1 || levels.ndim() == 2,
          "CodeBookWeight: levels must be a table or one table per output channel, got {} dimensions", levels.ndim());
  return {shape_of(values), copy(values), copy(scale), integers<int16_t>("CodeBookWeight: levels", levels),
          levels.ndim() == 1 ? 1 : levels.shape(0)};
}

OwnedPiecewiseWeight make_piecewise(int32_t bit_width, const py::array& region, const py::array& magnitude,
                                    const py::array& negative, const Array<double>& step, const Array<double>& start,
                                    const std::optional<Array<double>>& constant) {
  require(step.ndim() == 2 && start.ndim() == 2 && shape_of(step) == shape_of(start),
          "PiecewiseWeight: step and start must both be [regions, 1] or [regions, out], got {} and {}",
          shape_text(step), shape_text(start));
  return {shape_of(magnitude),
          bit_width,
          static_cast<int32_t>(step.shape(0)),
          integers<uint8_t>("PiecewiseWeight: region", region),
          integers<uint8_t>("PiecewiseWeight: magnitude", magnitude),
          integers<uint8_t>("PiecewiseWeight: negative", negative),
          copy(step),
          copy(start),
          constant ? copy(*constant) : std::vector<double>{}};
}

ir::RealWeight describe(const OwnedUniformWeight& w) {
  return ir::UniformWeight{w.shape, w.values, w.scale, w.zero_point, w.quant_min, w.quant_max};
}

ir::RealWeight describe(const OwnedPowerOfTwoWeight& w) {
  return ir::PowerOfTwoWeight{w.shape, w.values, w.bit_width, w.max_exponent, w.variable_length};
}

ir::RealWeight describe(const OwnedCodeBookWeight& w) {
  return ir::CodeBookWeight{w.shape, w.values, w.scale, w.levels, w.tables};
}

ir::RealWeight describe(const OwnedPiecewiseWeight& w) {
  return ir::PiecewiseWeight{w.shape,    w.bit_width, w.regions, w.region,  w.magnitude,
                             w.negative, w.step,      w.start,   w.constant};
}

}  // namespace

ir::RealWeight described(const WeightArgument& weight) {
  return std::visit([](const auto* owned) { return describe(*owned); }, weight);
}

void bind_weights(py::module_& m) {
  py::class_<OwnedUniformWeight>(
      m, "UniformWeight", "real = scale[c] * (code - zero_point); values lie on that grid. scale: 1 or out values.")
      .def(py::init(&make_uniform), py::arg("values"), py::arg("scale"), py::kw_only(), py::arg("zero_point") = 0,
           py::arg("quant_min"), py::arg("quant_max"));
  py::class_<OwnedPowerOfTwoWeight>(m, "PowerOfTwoWeight",
                                    "Values are 0 or +-2^k, max_exponent - 2^(bit_width - 2) < k <= max_exponent. "
                                    "variable_length: stored with 1 bit for a zero.")
      .def(py::init(&make_power_of_two), py::arg("values"), py::kw_only(), py::arg("bit_width"),
           py::arg("max_exponent"), py::arg("variable_length") = false);
  py::class_<OwnedCodeBookWeight>(m, "CodeBookWeight",
                                  "real = scale[c] * level. levels: ascending integers, [entries] for all channels or "
                                  "[out, entries]. scale: 1 or out values.")
      .def(py::init(&make_code_book), py::arg("values"), py::arg("scale"), py::arg("levels"));
  py::class_<OwnedPiecewiseWeight>(
      m, "PiecewiseWeight",
      "real = (-1 if negative else 1) * (start[region][c] + step[region][c] * magnitude) + constant[c]. region, "
      "magnitude and negative have "
      "the weight's shape; step and start are [regions, 1] or [regions, out], constant is [out].")
      .def(py::init(&make_piecewise), py::kw_only(), py::arg("bit_width"), py::arg("region"), py::arg("magnitude"),
           py::arg("negative"), py::arg("step"), py::arg("start"), py::arg("constant") = py::none());
}

}  // namespace qstep::bindings
