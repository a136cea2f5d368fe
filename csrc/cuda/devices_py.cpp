// Errors and devices for Python.
#include <pybind11/stl.h>

#include <optional>

#include "bindings.h"
#include "device_report.h"
#include "driver.h"
#include "errors.h"

namespace py = pybind11;

namespace pdrt::cuda {
namespace {

// Python's classes; they live as long as the interpreter.
struct ErrorTypes {
  py::object error, unavailable, out_of_memory;
};
ErrorTypes& types() {
  static auto* made = new ErrorTypes();
  return *made;
}

void raise(const py::object& type, const CudaError& error) {
  py::object raised = type(error.what());
  raised.attr("code") = error.code();
  PyErr_SetObject(type.ptr(), raised.ptr());
}

void translate_cuda_error(std::exception_ptr pending) {
  try {
    if (pending) std::rethrow_exception(pending);
  } catch (const CudaUnavailable& error) {
    raise(types().unavailable, error);
  } catch (const CudaOutOfMemory& error) {
    raise(types().out_of_memory, error);
  } catch (const CudaError& error) {
    raise(types().error, error);
  }
}

std::optional<std::string> unavailable() {
  try {
    if (num_devices() > 0) return std::nullopt;
    return "CUDA cannot be used: the driver shows this process no device; see CUDA_VISIBLE_DEVICES";
  } catch (const CudaError& error) {
    return error.what();
  }
}

}  // namespace

void bind_errors(py::module_& m) {
  types().error = py::exception<CudaError>(m, "CudaError", PyExc_RuntimeError);
  types().unavailable = py::exception<CudaUnavailable>(m, "CudaUnavailable", types().error);
  types().out_of_memory = py::exception<CudaOutOfMemory>(m, "CudaOutOfMemory", types().error);
  py::register_local_exception_translator(translate_cuda_error);
}

void bind_devices(py::module_& m) {
  using Report = DeviceReport;
  py::class_<Report>(m, "DeviceReport")
      .def_readonly("device", &Report::device)
      .def_readonly("name", &Report::name)
      .def_readonly("uuid", &Report::uuid)
      .def_readonly("pci_bus_id", &Report::pci_bus_id)
      .def_readonly("compute_capability", &Report::compute_capability)
      .def_readonly("num_sms", &Report::num_sms)
      .def_readonly("l2_bytes", &Report::l2_bytes)
      .def_readonly("shared_bytes_per_block", &Report::shared_bytes_per_block)
      .def_readonly("memory_free", &Report::memory_free)
      .def_readonly("memory_total", &Report::memory_total)
      .def_readonly("compute_mode", &Report::compute_mode)
      .def_readonly("supports_vmm", &Report::supports_vmm)
      .def_readonly("supports_fd_export", &Report::supports_fd_export)
      .def_readonly("supports_ipc_export", &Report::supports_ipc_export)
      .def_readonly("supports_ipc_events", &Report::supports_ipc_events)
      .def_readonly("supports_bulk_copy", &Report::supports_bulk_copy)
      .def_readonly("vmm_granularity", &Report::vmm_granularity);
  m.def("unavailable", &unavailable);
  m.def("num_devices", &num_devices);
  m.def("driver_version", &driver_version);
  m.def("runtime_version", &runtime_version);
  m.def("device_report", &device_report, py::arg("device"),
        py::call_guard<py::gil_scoped_release>());
}

}  // namespace pdrt::cuda
