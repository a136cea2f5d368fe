// Norms and activations for Python, with the checks of their arguments.
#include "bindings.h"
#include "elementwise.h"
#include "step_tape.h"
#include "tensor_argument.h"

namespace py = pybind11;

namespace pdrt {
namespace {

// A matrix of a dtype of the kernels: rows, one after the other.
TensorArgument matrix(const char* name, py::handle object) {
  TensorArgument argument(name, object);
  argument.floating();
  argument.check_dims(2, "[num_rows, size]");
  argument.check_contiguous();
  return argument;
}

void* residual_of(py::handle object, const TensorArgument& x) {
  if (object.is_none()) return nullptr;
  const TensorArgument residual("residual", object);
  residual.check_whole(x.floating(), {x.size(0), x.size(1)});
  return residual.data();
}

void* result_of(py::handle object, const TensorArgument& x, int64_t size) {
  const TensorArgument out("out", object);
  out.check_whole(x.floating(), {x.size(0), size});
  return out.data();
}

const void* vector_of(const char* name, py::handle object, const TensorArgument& x) {
  const TensorArgument vector(name, object);
  vector.check_whole(x.floating(), {x.size(1)});
  return vector.data();
}

template <typename Rows>
void run_rows(void (*op)(const Rows&, bool), const Rows& all, bool is_bfloat16) {
  const py::gil_scoped_release without_gil;
  StepTape::run(all.num_rows, [op, all, is_bfloat16](int64_t num_rows) {
    Rows rows = all;
    rows.num_rows = num_rows;
    op(rows, is_bfloat16);
  });
}

// rms_norm has no bias, layer_norm no weight_offset.
void norm(void (*op)(const Norm&, bool), py::handle out, py::handle rows, py::handle weight,
          const py::handle* bias, py::handle residual, float eps, float weight_offset) {
  const TensorArgument x = matrix("x", rows);
  const Norm norm = {
      .out = result_of(out, x, x.size(1)),
      .x = x.data(),
      .residual = residual_of(residual, x),
      .weight = vector_of("weight", weight, x),
      .bias = bias ? vector_of("bias", *bias, x) : nullptr,
      .num_rows = x.size(0),
      .size = x.size(1),
      .eps = eps,
      .weight_offset = weight_offset,
  };
  run_rows(op, norm, x.is_bfloat16());
}

void rms_norm(py::handle out, py::handle x, py::handle weight, py::handle residual, float eps,
              float weight_offset) {
  norm(cpu_rms_norm, out, x, weight, nullptr, residual, eps, weight_offset);
}

void layer_norm(py::handle out, py::handle x, py::handle weight, py::handle bias,
                py::handle residual, float eps) {
  norm(cpu_layer_norm, out, x, weight, &bias, residual, eps, 0.0f);
}

template <void (*kOp)(const Activation&, bool), bool kGated>
void activation(py::handle out, py::handle rows) {
  const TensorArgument x = matrix("x", rows);
  const int64_t width = x.size(1), size = kGated ? width / 2 : width;
  PDRT_CHECK(!kGated || width % 2 == 0, "x has ", width,
             " columns; gate and up need an even number");
  const Activation activation = {
      .out = result_of(out, x, size), .x = x.data(), .num_rows = x.size(0), .size = size};
  run_rows(kOp, activation, x.is_bfloat16());
}

}  // namespace

// By position, not by keyword: a decode step calls these a hundred times.
void bind_cpu_rows(py::module_& m) {
  m.def("cpu_rms_norm", &rms_norm);
  m.def("cpu_layer_norm", &layer_norm);
  m.def("cpu_silu_and_mul", &activation<cpu_silu_and_mul, true>);
  m.def("cpu_gelu_tanh_and_mul", &activation<cpu_gelu_tanh_and_mul, true>);
  m.def("cpu_gelu_tanh", &activation<cpu_gelu_tanh, false>);
  m.def("cpu_gelu", &activation<cpu_gelu, false>);
}

}  // namespace pdrt
