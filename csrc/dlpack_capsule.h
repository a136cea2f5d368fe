// Memory given to torch or numpy: a flat uint8 tensor in a capsule that keeps the memory alive.
//
// Owner is Memory or its like: address(), num_bytes() and writable().
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <utility>

#include "dlpack.h"

namespace pdrt {

// What a tensor made from a capsule keeps: the memory, and the tensor's shape and stride.
template <typename Capsule, typename Owner>
struct Lease {
  std::shared_ptr<Owner> memory;
  int64_t shape, stride = 1;
  Capsule capsule{};

  Lease(std::shared_ptr<Owner> kept, dlpack::Device device)
      : memory(std::move(kept)), shape(static_cast<int64_t>(memory->num_bytes())) {
    capsule.context = this;
    capsule.deleter = [](Capsule* self) { delete static_cast<Lease*>(self->context); };
    capsule.tensor = {memory->address(), device, 1, {dlpack::kUnsigned, 8, 1}, &shape, &stride, 0};
  }
};

// Who takes the tensor out renames the capsule, and calls the deleter when done with it.
template <typename Capsule>
void drop_unused(PyObject* object) {
  if (!PyCapsule_IsValid(object, Capsule::kName)) return;
  auto* capsule = static_cast<Capsule*>(PyCapsule_GetPointer(object, Capsule::kName));
  capsule->deleter(capsule);
}

template <typename Capsule, typename Owner>
pybind11::object capsule_of(std::unique_ptr<Lease<Capsule, Owner>> lease) {
  PyObject* object = PyCapsule_New(&lease->capsule, Capsule::kName, drop_unused<Capsule>);
  if (object == nullptr) throw pybind11::error_already_set();
  lease.release();
  return pybind11::reinterpret_steal<pybind11::object>(object);
}

// A capsule of the shape that the consumer knows. Only version 1 can say that memory is read-only.
template <typename Owner>
pybind11::object lend(std::shared_ptr<Owner> memory, dlpack::Device device, bool is_version_1) {
  if (!is_version_1) {
    if (!memory->writable())
      throw pybind11::buffer_error("read-only memory needs a consumer of DLPack version 1");
    return capsule_of(std::make_unique<Lease<dlpack::Managed, Owner>>(std::move(memory), device));
  }
  auto lease = std::make_unique<Lease<dlpack::Versioned, Owner>>(std::move(memory), device);
  lease->capsule.version = {dlpack::kMajor, dlpack::kMinor};
  lease->capsule.flags = lease->memory->writable() ? 0 : dlpack::kReadOnly;
  return capsule_of(std::move(lease));
}

}  // namespace pdrt
