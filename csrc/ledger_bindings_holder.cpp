// Holder in Python. The interpreter is let go around every operation that takes the lock.
#include <pybind11/native_enum.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "holder.h"
#include "ledger_bindings.h"

namespace py = pybind11;

namespace pdrt {
namespace {

using RowTuple = std::tuple<uint32_t, uint32_t, uint32_t, int32_t, float, FinishReason>;
using Unlocked = py::call_guard<py::gil_scoped_release>;

std::optional<std::vector<bool>> boundary(Holder& holder, uint64_t step,
                                          const std::vector<RowTuple>& tuples) {
  std::vector<Row> rows;
  rows.reserve(tuples.size());
  for (const RowTuple& tuple : tuples) rows.push_back(std::make_from_tuple<Row>(tuple));
  return holder.boundary(step, rows);
}

}  // namespace

void bind_holder(py::module_& m) {
  py::class_<Holder>(m, "Holder")
      .def_property_readonly("instance", &Holder::instance)
      .def_property_readonly("launched", &Holder::launched)
      .def_property_readonly("read", &Holder::read)
      .def("launch", &Holder::launch)
      .def("beat", &Holder::beat)
      .def("marked", &Holder::marked)
      .def("admit", &Holder::admit, py::arg("slot"), py::arg("generation"), Unlocked())
      .def("boundary", &boundary, py::arg("step"), py::arg("rows"), Unlocked())
      .def("seal", &Holder::seal, py::arg("slot"), Unlocked())
      .def("take", &Holder::take, py::arg("slot"), py::arg("generation"),
           py::arg("bytes_moved") = 0, Unlocked())
      .def("grow", &Holder::grow, py::arg("slot"), py::arg("num_tokens"),
           py::arg("speculative") = false, Unlocked())
      .def("let_go", &Holder::let_go, py::arg("slot"), Unlocked())
      .def("finish", &Holder::finish, py::arg("slot"), Unlocked())
      .def("abort", &Holder::abort, py::arg("slot"), Unlocked());
}

}  // namespace pdrt
