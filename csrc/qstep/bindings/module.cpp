// qstep._C: classes of the integer side. Operators on tensors are reached through torch.ops.qstep instead.
#include "qstep/bindings/bindings.h"
#include "qstep/core/error.h"
#include "qstep/core/version.h"

PYBIND11_MODULE(_C, m) {
  m.doc() = "The integer side of qstep.";
  m.attr("__version__") = QSTEP_VERSION;
  pybind11::register_exception<qstep::Error>(m, "Error", PyExc_ValueError);
  qstep::bindings::bind_weights(m);
  qstep::bindings::bind_graph(m);
  qstep::bindings::bind_network(m);
}
