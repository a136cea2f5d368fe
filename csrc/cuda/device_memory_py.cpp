// DeviceMemory for Python: the class, and its exchange with torch through DLPack.
#include <pybind11/stl.h>

#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "../dlpack_capsule.h"
#include "bindings.h"
#include "device_memory.h"
#include "errors.h"

namespace py = pybind11;

namespace pdrt::cuda {
namespace {

using Pair = std::pair<int, int>;

void check_range(int device, size_t num_bytes) {
  PDRT_CHECK(device >= 0, "device is ", device, "; devices are numbered from 0");
  PDRT_CHECK(num_bytes > 0, "num_bytes is 0; give 1 or more");
}

std::shared_ptr<DeviceMemory> create(int device, size_t num_bytes, const std::string& how) {
  check_range(device, num_bytes);
  PDRT_CHECK(how == "vmm" || how == "ipc", "export is '", how, "'; give 'vmm' or 'ipc'");
  py::gil_scoped_release release;
  return how == "vmm" ? DeviceMemory::create_vmm(device, num_bytes)
                      : DeviceMemory::create_ipc(device, num_bytes);
}

std::shared_ptr<DeviceMemory> attach_fd(int device, int fd, size_t num_bytes, bool writable) {
  check_range(device, num_bytes);
  py::gil_scoped_release release;
  return DeviceMemory::attach_fd(device, fd, num_bytes, writable);
}

std::shared_ptr<DeviceMemory> attach_ipc(int device, const py::bytes& bytes, size_t num_bytes,
                                         bool writable) {
  check_range(device, num_bytes);
  std::string given = bytes;
  IpcHandle handle;
  PDRT_CHECK(given.size() == handle.size(), "an IPC handle has ", handle.size(),
             " bytes, the one given has ", given.size());
  std::memcpy(handle.data(), given.data(), handle.size());
  py::gil_scoped_release release;
  return DeviceMemory::attach_ipc(device, handle, num_bytes, writable);
}

int fd(const DeviceMemory& memory) {
  PDRT_CHECK(memory.is_vmm(), "memory exported by IPC has no descriptor; send its ipc_handle");
  return memory.fd();
}

py::bytes ipc_handle(const DeviceMemory& memory) {
  PDRT_CHECK(!memory.is_vmm(), "memory exported by VMM has no IPC handle; send its descriptor");
  return {memory.ipc_handle().data(), memory.ipc_handle().size()};
}

Pair dlpack_device(const DeviceMemory& memory) { return {dlpack::kCuda, memory.device()}; }

// The memory as a 1-D uint8 tensor. No work of ours is pending on it, so any stream will do.
py::object to_dlpack(DeviceMemory& memory, const py::object&, std::optional<Pair> max_version,
                     std::optional<Pair> dl_device, std::optional<bool> copy) {
  if (dl_device && *dl_device != dlpack_device(memory))
    throw py::buffer_error(join("the memory is mapped for CUDA device ", memory.device(),
                                "; move the tensor to another device later"));
  if (copy.value_or(false))
    throw py::buffer_error("memory is shared, not copied; clone the tensor for a copy");
  return lend(memory.shared_from_this(), {dlpack::kCuda, memory.device()},
              max_version && max_version->first >= 1);
}

}  // namespace

void bind_device_memory(py::module_& m) {
  using Self = DeviceMemory;
  py::class_<Self, std::shared_ptr<Self>>(m, "DeviceMemory")
      .def_static("create", &create, py::arg("device"), py::arg("num_bytes"),
                  py::arg("export") = "vmm")
      .def_static("attach_fd", &attach_fd, py::arg("device"), py::arg("fd"), py::arg("num_bytes"),
                  py::arg("writable") = true)
      .def_static("attach_ipc", &attach_ipc, py::arg("device"), py::arg("handle"),
                  py::arg("num_bytes"), py::arg("writable") = true)
      .def_property_readonly("fd", &fd)
      .def_property_readonly("ipc_handle", &ipc_handle)
      .def_property_readonly("export",
                             [](const Self& self) { return self.is_vmm() ? "vmm" : "ipc"; })
      .def_property_readonly("device", &Self::device)
      .def_property_readonly(
          "address", [](const Self& self) { return reinterpret_cast<uintptr_t>(self.address()); })
      .def_property_readonly("num_bytes", &Self::num_bytes)
      .def_property_readonly("mapped_bytes", &Self::mapped_bytes)
      .def_property_readonly("writable", &Self::writable)
      .def_property_readonly("enforced", &Self::enforced)
      .def("__dlpack__", &to_dlpack, py::kw_only(), py::arg("stream") = py::none(),
           py::arg("max_version") = py::none(), py::arg("dl_device") = py::none(),
           py::arg("copy") = py::none())
      .def("__dlpack_device__", &dlpack_device);
}

}  // namespace pdrt::cuda
