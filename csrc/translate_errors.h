// std::system_error becomes OSError in Python, with errno; std::invalid_argument is ValueError
// already. Each module of the extension registers it.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <system_error>

namespace pdrt {

inline void translate_system_error(std::exception_ptr pending) {
  try {
    if (pending) std::rethrow_exception(pending);
  } catch (const std::system_error& error) {
    pybind11::object args = pybind11::make_tuple(error.code().value(), error.what());
    PyErr_SetObject(PyExc_OSError, args.ptr());
  }
}

}  // namespace pdrt
