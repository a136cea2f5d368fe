// Choosing tokens, for Python. The arrays come as pdrt/kernels/cpu_draw.py has checked them.
#include <pybind11/numpy.h>

#include "bindings.h"
#include "draw.h"
#include "step_tape.h"

namespace py = pybind11;
using namespace py::literals;

namespace pdrt {
namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

void draw(const Array<float>& logits, const Array<DrawRow>& rows, Array<Drawn>& drawn) {
  const float* from = logits.data();
  const DrawRow* how = rows.data();
  Drawn* to = drawn.mutable_data();
  const int64_t vocab_size = logits.shape(1);
  const py::gil_scoped_release without_gil;
  StepTape::run(logits.shape(0),
                [=](int64_t num_rows) { cpu_draw(how, from, num_rows, vocab_size, to); });
}

}  // namespace

void bind_cpu_draw(py::module_& m) {
  PYBIND11_NUMPY_DTYPE(DrawRow, choice, seed, top_p, temperature, log_min_p, top_k, position);
  PYBIND11_NUMPY_DTYPE(Drawn, token, logprob, log_total);
  m.attr("DRAW_ROW") = py::dtype::of<DrawRow>();
  m.attr("DRAWN") = py::dtype::of<Drawn>();
  m.def("cpu_draw", &draw, py::arg("logits").noconvert(), py::arg("rows").noconvert(),
        py::arg("drawn").noconvert());
}

}  // namespace pdrt
