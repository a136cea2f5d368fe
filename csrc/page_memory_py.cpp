// Memory for Python: the class, and its exchange with torch and numpy through DLPack.
#include <pybind11/stl.h>

#include <optional>
#include <utility>

#include "bindings.h"
#include "dlpack_capsule.h"
#include "page_memory.h"

namespace py = pybind11;

namespace pdrt {
namespace {

using Pair = std::pair<int, int>;

// The memory as a 1-D uint8 tensor on the CPU. The keywords are those of the array API standard.
py::object to_dlpack(Memory& memory, const py::object& stream, std::optional<Pair> max_version,
                     std::optional<Pair> dl_device, std::optional<bool> copy) {
  if (!stream.is_none()) throw py::value_error("stream is given, but memory on the CPU has none");
  if (dl_device && *dl_device != Pair{dlpack::kCpu, 0})
    throw py::buffer_error("the memory is on the CPU; move the tensor to another device later");
  if (copy.value_or(false))
    throw py::buffer_error("memory is shared, not copied; clone the tensor for a copy");
  return lend(memory.shared_from_this(), {dlpack::kCpu, 0}, max_version && max_version->first >= 1);
}

}  // namespace

void bind_page_memory(py::module_& m) {
  py::class_<Memory, std::shared_ptr<Memory>>(m, "Memory")
      .def_static("create", &Memory::create, py::arg("name"), py::arg("num_bytes"))
      .def_static("attach", &Memory::attach, py::arg("fd"), py::arg("writable"))
      .def_property_readonly("fd", &Memory::fd)
      .def_property_readonly("num_bytes", &Memory::num_bytes)
      .def_property_readonly(
          "address", [](const Memory& self) { return reinterpret_cast<uintptr_t>(self.address()); })
      .def("use_huge_pages", &Memory::use_huge_pages, py::call_guard<py::gil_scoped_release>())
      .def("seal", &Memory::seal)
      .def("__dlpack__", &to_dlpack, py::kw_only(), py::arg("stream") = py::none(),
           py::arg("max_version") = py::none(), py::arg("dl_device") = py::none(),
           py::arg("copy") = py::none())
      .def("__dlpack_device__", [](const Memory&) { return Pair{dlpack::kCpu, 0}; });
}

}  // namespace pdrt
