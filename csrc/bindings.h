// One function for each part of the extension; bindings.cpp calls them in order.
#pragma once

#include <pybind11/pybind11.h>

#include "check.h"

namespace pdrt {

void bind_ledger(pybind11::module_& m);
void bind_page_memory(pybind11::module_& m);
void bind_cpu_kernels(pybind11::module_& m);
void bind_cpu_rows(pybind11::module_& m);
void bind_cpu_linear(pybind11::module_& m);
void bind_cpu_draw(pybind11::module_& m);
void bind_step_tape(pybind11::module_& m);

}  // namespace pdrt
