// Holder in Python. The interpreter is let go around every operation that takes the lock.
#include <pybind11/functional.h>
#include <pybind11/native_enum.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <tuple>

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

template <class T>
using Values = py::array_t<T, py::array::c_style>;

template <class T>
std::span<const T> span_of(const Values<T>& values) {
  return {values.data(), static_cast<size_t>(values.size())};
}

bool score(Holder& holder, uint32_t slot, uint32_t generation, uint32_t start,
           const Values<float>& logprobs, const Values<int32_t>& top_ids,
           const Values<float>& top_logprobs) {
  PDRT_CHECK(top_ids.ndim() == 2, "top_ids has ", top_ids.ndim(), " dimensions; give 2");
  return holder.score(slot, generation,
                      {.start = start,
                       .logprobs = span_of(logprobs),
                       .num_top = static_cast<uint32_t>(top_ids.shape(1)),
                       .top_ids = span_of(top_ids),
                       .top_logprobs = span_of(top_logprobs)});
}

}  // namespace

void bind_holder(py::module_& m) {
  py::class_<Holder>(m, "Holder")
      .def_property_readonly("instance", &Holder::instance)
      .def_property_readonly("launched", &Holder::launched)
      .def_property_readonly("read", &Holder::read)
      .def("launch", &Holder::launch)
      .def("beat", &Holder::beat)
      .def("set_computing", &Holder::set_computing, py::arg("computing"))
      .def("ready", &Holder::ready, py::arg("slot"), py::arg("generation"))
      .def("admit", &Holder::admit, py::arg("slot"), py::arg("generation"),
           py::arg("copy_page") = CopyPage(), Unlocked())
      .def("score", &score, py::arg("slot"), py::arg("generation"), py::arg("start"),
           py::arg("logprobs").noconvert(), py::arg("top_ids").noconvert(),
           py::arg("top_logprobs").noconvert())
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
