// Choosing tokens, for Python. The arrays come as pdrt/kernels/cpu_draw.py has checked them.
#include <pybind11/numpy.h>

#include "bindings.h"
#include "draw.h"

namespace py = pybind11;
using namespace py::literals;

namespace pdrt {
namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

py::array_t<Drawn> draw(const Array<float>& logits, const Array<DrawRow>& rows) {
  py::array_t<Drawn> result(logits.shape(0));
  Drawn* drawn = result.mutable_data();
  const py::gil_scoped_release without_gil;
  cpu_draw(rows.data(), logits.data(), logits.shape(0), logits.shape(1), drawn);
  return result;
}

}  // namespace

void bind_cpu_draw(py::module_& m) {
  PYBIND11_NUMPY_DTYPE(DrawRow, choice, seed, top_p, temperature, log_min_p, top_k, position);
  PYBIND11_NUMPY_DTYPE(Drawn, token, logprob, log_total);
  m.attr("DRAW_ROW") = py::dtype::of<DrawRow>();
  m.def("cpu_draw", &draw, py::arg("logits").noconvert(), py::arg("rows").noconvert());
}

}  // namespace pdrt
