// Enums and read-only records of the ledger's interface.
#include <pybind11/native_enum.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "ledger_audit.h"
#include "ledger_bindings.h"
#include "ledger_snapshots.h"

namespace py = pybind11;

namespace pdrt {
namespace {

void bind_enums(py::module_& m) {
  py::native_enum<Phase>(m, "Phase", "enum.Enum")
      .value("EMPTY", Phase::EMPTY)
      .value("QUEUED", Phase::QUEUED)
      .value("PREFILLING", Phase::PREFILLING)
      .value("SEALED", Phase::SEALED)
      .value("DECODING", Phase::DECODING)
      .value("PREEMPTED", Phase::PREEMPTED)
      .value("FINISHED", Phase::FINISHED)
      .finalize();
  py::native_enum<Outcome>(m, "Outcome", "enum.Enum")
      .value("DONE", Outcome::DONE)
      .value("BUSY", Outcome::BUSY)
      .value("STALE", Outcome::STALE)
      .value("NOT_OLDEST", Outcome::NOT_OLDEST)
      .value("NO_PAGES", Outcome::NO_PAGES)
      .value("FULL", Outcome::FULL)
      .value("PREEMPTED", Outcome::PREEMPTED)
      .value("LET_GO", Outcome::LET_GO)
      .finalize();
  py::native_enum<FinishReason>(m, "FinishReason", "enum.Enum")
      .value("NONE", FinishReason::NONE)
      .value("STOP", FinishReason::STOP)
      .value("LENGTH", FinishReason::LENGTH)
      .value("ERROR", FinishReason::ERROR)
      .finalize();
}

void bind_slot_records(py::module_& m) {
  py::class_<SlotWord>(m, "Word")
      .def_readonly("phase", &SlotWord::phase)
      .def_readonly("holder", &SlotWord::holder)
      .def_readonly("abort", &SlotWord::abort)
      .def_readonly("victim", &SlotWord::victim)
      .def_readonly("generation", &SlotWord::generation);
  py::class_<SlotInfo>(m, "SlotInfo")
      .def_readonly("request_id", &SlotInfo::request_id)
      .def_readonly("rank", &SlotInfo::rank)
      .def_readonly("num_prompt_tokens", &SlotInfo::num_prompt_tokens)
      .def_readonly("num_output_tokens", &SlotInfo::num_output_tokens)
      .def_readonly("max_tokens", &SlotInfo::max_tokens)
      .def_readonly("num_computed_tokens", &SlotInfo::num_computed_tokens)
      .def_readonly("num_cached_tokens", &SlotInfo::num_cached_tokens)
      .def_readonly("goal", &SlotInfo::goal)
      .def_readonly("num_pages", &SlotInfo::num_pages)
      .def_readonly("finish_reason", &SlotInfo::finish_reason);
  py::class_<Times>(m, "Times")
      .def_readonly("queued", &Times::queued)
      .def_readonly("admitted", &Times::admitted)
      .def_readonly("sealed", &Times::sealed)
      .def_readonly("taken", &Times::taken)
      .def_readonly("finished", &Times::finished);
}

void bind_totals(py::module_& m) {
  py::class_<PageCounts>(m, "PageCounts")
      .def_readonly("free", &PageCounts::free)
      .def_readonly("prefilling", &PageCounts::prefilling)
      .def_readonly("sealed", &PageCounts::sealed)
      .def_readonly("decoding", &PageCounts::decoding)
      .def_readonly("cached", &PageCounts::cached)
      .def_readonly("quarantined", &PageCounts::quarantined)
      .def_readonly("total", &PageCounts::total);
  py::class_<CounterValues>(m, "Counters")
      .def_readonly("admitted", &CounterValues::admitted)
      .def_readonly("handed_off", &CounterValues::handed_off)
      .def_readonly("handoff_bytes", &CounterValues::handoff_bytes)
      .def_readonly("preempted", &CounterValues::preempted)
      .def_readonly("evicted", &CounterValues::evicted)
      .def_readonly("finished", &CounterValues::finished)
      .def_readonly("aborted", &CounterValues::aborted)
      .def_readonly("reaped", &CounterValues::reaped)
      .def_readonly("rebuilt", &CounterValues::rebuilt)
      .def_readonly("prefix_queried_tokens", &CounterValues::prefix_queried_tokens)
      .def_readonly("prefix_hit_tokens", &CounterValues::prefix_hit_tokens)
      .def_readonly("violations", &CounterValues::violations);
  py::class_<LockState>(m, "LockState")
      .def_readonly("owner", &LockState::owner)
      .def_readonly("acquisition", &LockState::acquisition);
  py::class_<Audit>(m, "Audit")
      .def_readonly("counts", &Audit::counts)
      .def_readonly("violations", &Audit::violations);
}

}  // namespace

void bind_ledger_values(py::module_& m) {
  m.attr("NOBODY") = NOBODY;
  m.attr("KEEPER") = KEEPER;
  bind_enums(m);
  bind_slot_records(m);
  bind_totals(m);
}

}  // namespace pdrt
