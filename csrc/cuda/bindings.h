// One function for each part of the CUDA extension; bindings.cpp calls them in order.
#pragma once

#include <pybind11/pybind11.h>

namespace pdrt::cuda {

void bind_errors(pybind11::module_& m);
void bind_devices(pybind11::module_& m);
void bind_device_memory(pybind11::module_& m);
void bind_page_copy(pybind11::module_& m);

}  // namespace pdrt::cuda
