// The CPU's linear layers for Python. Tensors come as addresses: pdrt/kernels/cpu_linear.py has
// checked them.
#include "bindings.h"
#include "cpu_linear.h"
#include "step_tape.h"

namespace py = pybind11;
using namespace py::literals;

namespace pdrt {
namespace {

template <typename T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

PackedShape packed_shape(int64_t num_outputs, int64_t num_inputs, bool gated, bool is_bfloat16,
                         bool is_int8) {
  PDRT_CHECK(num_outputs > 0 && num_inputs > 0, "a weight of ", num_outputs, " x ", num_inputs,
             " has no elements");
  PDRT_CHECK(!gated || num_outputs % 2 == 0, "num_outputs is ", num_outputs,
             "; gate and up together need an even number");
  return {num_outputs, num_inputs, gated, is_bfloat16, is_int8};
}

void linear(const PackedShape& shape, uintptr_t weight, uintptr_t out, uintptr_t x, uintptr_t bias,
            uintptr_t residual, int64_t num_rows, int act, bool float_out) {
  const Linear linear = {
      .out = pointer<void>(out),
      .x = pointer<const void>(x),
      .weight = pointer<const void>(weight),
      .bias = pointer<const void>(bias),
      .residual = pointer<const void>(residual),
      .num_rows = num_rows,
      .shape = shape,
      .act = static_cast<Act>(act),
      .float_out = float_out,
  };
  StepTape::run(num_rows, [linear](int64_t rows) {
    Linear step = linear;
    step.num_rows = rows;
    cpu_linear(step);
  });
}

}  // namespace

void bind_cpu_linear(py::module_& m) {
  const py::call_guard<py::gil_scoped_release> without_gil;
  py::class_<PackedShape>(m, "PackedShape")
      .def(py::init(&packed_shape), py::kw_only(), "num_outputs"_a, "num_inputs"_a, "gated"_a,
           "is_bfloat16"_a, "is_int8"_a)
      .def_readonly("num_outputs", &PackedShape::num_outputs)
      .def_readonly("num_inputs", &PackedShape::num_inputs)
      .def_readonly("gated", &PackedShape::gated)
      .def_readonly("is_bfloat16", &PackedShape::is_bfloat16)
      .def_readonly("is_int8", &PackedShape::is_int8)
      .def_property_readonly("num_bytes", &PackedShape::num_bytes);
  m.def(
      "cpu_pack_rows",
      [](const PackedShape& shape, uintptr_t packed, uintptr_t rows, int64_t first_row,
         int64_t num_rows) {
        pack_rows(shape, pointer<void>(packed), pointer<const void>(rows), first_row, num_rows);
      },
      "shape"_a, "packed"_a, "rows"_a, "first_row"_a, "num_rows"_a, without_gil);
  m.def(
      "cpu_gather_rows",
      [](const PackedShape& shape, uintptr_t packed, uintptr_t ids, int64_t num_rows,
         uintptr_t out) {
        gather_rows(shape, pointer<const void>(packed), pointer<const int32_t>(ids), num_rows,
                    pointer<void>(out));
      },
      "shape"_a, "packed"_a, "ids"_a, "num_rows"_a, "out"_a, without_gil);
  // Not by keyword: a decode step calls it a hundred times, and names would double the cost.
  m.def("cpu_linear", &linear, without_gil);
}

}  // namespace pdrt
