#pragma once
// Parts of the Python module qstep._C, one function per file.
#include <pybind11/pybind11.h>

namespace qstep::bindings {

namespace py = pybind11;

void bind_weights(py::module_& m);
void bind_graph(py::module_& m);
void bind_network(py::module_& m);

}  // namespace qstep::bindings
