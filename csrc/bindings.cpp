// The extension's table of contents. Types and docs for Python: pdrt/_C.pyi.
#include "bindings.h"

#include <system_error>

namespace py = pybind11;

namespace {

// std::system_error is OSError in Python, with errno; std::invalid_argument is ValueError already.
void translate_system_error(std::exception_ptr pending) {
  try {
    if (pending) std::rethrow_exception(pending);
  } catch (const std::system_error& error) {
    py::object args = py::make_tuple(error.code().value(), error.what());
    PyErr_SetObject(PyExc_OSError, args.ptr());
  }
}

}  // namespace

PYBIND11_MODULE(PDRT_MODULE, m) {
  py::register_local_exception_translator(translate_system_error);
  pdrt::bind_ledger(m);
  pdrt::bind_page_memory(m);
  pdrt::bind_cpu_kernels(m);
}
