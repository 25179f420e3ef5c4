#pragma once
// Arguments that are numpy arrays.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <optional>
#include <span>

namespace qstep::bindings {

namespace py = pybind11;

// forcecast: float16 and non-contiguous arrays arrive as contiguous ones of the wanted type.
template <class T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

template <class T>
std::span<const T> span(const Array<T>& array) {
  return {array.data(), static_cast<size_t>(array.size())};
}

template <class T>
std::span<const T> span(const std::optional<Array<T>>& array) {
  return array ? span(*array) : std::span<const T>{};
}

}  // namespace qstep::bindings
