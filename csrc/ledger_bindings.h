// The ledger's Python types; bind_ledger calls these in order.
#pragma once

#include <pybind11/pybind11.h>

#include "check.h"

namespace pdrt {

void bind_ledger_values(pybind11::module_& m);
void bind_holder(pybind11::module_& m);
void bind_failpoints(pybind11::module_& m);  // nothing in the normal build

}  // namespace pdrt
