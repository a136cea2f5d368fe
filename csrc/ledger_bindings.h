// The ledger's Python types; bind_ledger calls these in order.
#pragma once

#include <pybind11/pybind11.h>

#include "check.h"
#include "ledger.h"

namespace pdrt {

using LedgerClass = pybind11::class_<Ledger, std::shared_ptr<Ledger>>;

void bind_ledger_values(pybind11::module_& m);
void bind_holder(pybind11::module_& m);
void bind_batch(LedgerClass& cls);
void bind_failpoints(pybind11::module_& m);  // nothing in the normal build

}  // namespace pdrt
