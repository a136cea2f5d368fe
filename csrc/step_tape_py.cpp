// Tapes for Python.
#include "bindings.h"
#include "step_tape.h"

namespace py = pybind11;
using namespace py::literals;

namespace pdrt {

void bind_step_tape(py::module_& m) {
  py::class_<StepTape>(m, "StepTape")
      .def(py::init<>())
      .def("start", &StepTape::start)
      .def("stop", &StepTape::stop)
      .def("replay", &StepTape::replay, "num_rows"_a, py::call_guard<py::gil_scoped_release>())
      .def("__len__", &StepTape::num_calls);
}

}  // namespace pdrt
