// Memory for Python: the class, and its exchange with torch and numpy through DLPack.
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <utility>

#include "bindings.h"
#include "dlpack.h"
#include "page_memory.h"

namespace py = pybind11;

namespace pdrt {
namespace {

// What a tensor made from a capsule keeps: the mapping, and the tensor's shape and stride.
template <typename Capsule>
struct Lease {
  std::shared_ptr<Memory> memory;
  int64_t shape, stride = 1;
  Capsule capsule{};

  explicit Lease(std::shared_ptr<Memory> kept)
      : memory(std::move(kept)), shape(static_cast<int64_t>(memory->num_bytes())) {
    capsule.context = this;
    capsule.deleter = [](Capsule* self) { delete static_cast<Lease*>(self->context); };
    capsule.tensor = {
        memory->address(), {dlpack::kCpu, 0}, 1, {dlpack::kUnsigned, 8, 1}, &shape, &stride, 0};
  }
};

// Who takes the tensor out renames the capsule, and calls the deleter when done with it.
template <typename Capsule>
void drop_unused(PyObject* object) {
  if (!PyCapsule_IsValid(object, Capsule::kName)) return;
  auto* capsule = static_cast<Capsule*>(PyCapsule_GetPointer(object, Capsule::kName));
  capsule->deleter(capsule);
}

template <typename Capsule>
py::object capsule_of(std::unique_ptr<Lease<Capsule>> lease) {
  PyObject* object = PyCapsule_New(&lease->capsule, Capsule::kName, drop_unused<Capsule>);
  if (object == nullptr) throw py::error_already_set();
  lease.release();
  return py::reinterpret_steal<py::object>(object);
}

py::object versioned_capsule(std::shared_ptr<Memory> memory) {
  auto lease = std::make_unique<Lease<dlpack::Versioned>>(std::move(memory));
  lease->capsule.version = {dlpack::kMajor, dlpack::kMinor};
  lease->capsule.flags = lease->memory->writable() ? 0 : dlpack::kReadOnly;
  return capsule_of(std::move(lease));
}

using Pair = std::pair<int, int>;

// The memory as a 1-D uint8 tensor on the CPU. The keywords are those of the array API standard.
py::object to_dlpack(Memory& memory, const py::object& stream, std::optional<Pair> max_version,
                     std::optional<Pair> dl_device, std::optional<bool> copy) {
  if (!stream.is_none()) throw py::value_error("stream is given, but memory on the CPU has none");
  if (dl_device && *dl_device != Pair{dlpack::kCpu, 0})
    throw py::buffer_error("the memory is on the CPU; move the tensor to another device later");
  if (copy.value_or(false))
    throw py::buffer_error("memory is shared, not copied; clone the tensor for a copy");
  if (max_version && max_version->first >= 1) return versioned_capsule(memory.shared_from_this());
  if (!memory.writable())
    throw py::buffer_error("read-only memory needs a consumer of DLPack version 1");
  return capsule_of(std::make_unique<Lease<dlpack::Managed>>(memory.shared_from_this()));
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
      .def("seal", &Memory::seal)
      .def("__dlpack__", &to_dlpack, py::kw_only(), py::arg("stream") = py::none(),
           py::arg("max_version") = py::none(), py::arg("dl_device") = py::none(),
           py::arg("copy") = py::none())
      .def("__dlpack_device__", [](const Memory&) { return Pair{dlpack::kCpu, 0}; });
}

}  // namespace pdrt
