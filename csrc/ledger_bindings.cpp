// Ledger in Python; types and docs: pdrt/_C.pyi. The interpreter is let go around every operation
// that takes the lock.
#include "ledger_bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "bindings.h"
#include "holder.h"
#include "ledger_snapshots.h"

namespace py = pybind11;

namespace pdrt {
namespace {

using Unlocked = py::call_guard<py::gil_scoped_release>;
using TokenArray = py::array_t<int32_t, py::array::c_style>;

std::shared_ptr<Ledger> create(uint32_t num_pages, uint32_t page_size, uint32_t num_slots,
                               uint32_t max_model_len, uint32_t sealed_bound,
                               uint32_t max_params_bytes, uint32_t max_top_logprobs,
                               uint32_t lock_timeout_ms, std::string_view name_space) {
  const Geometry geometry{.num_pages = num_pages,
                          .page_size = page_size,
                          .num_slots = num_slots,
                          .max_model_len = max_model_len,
                          .sealed_bound = sealed_bound,
                          .max_params_bytes = max_params_bytes,
                          .max_top_logprobs = max_top_logprobs,
                          .lock_timeout_ms = lock_timeout_ms};
  return Ledger::create(geometry, name_space);
}

std::optional<std::pair<uint32_t, uint32_t>> claim(Ledger& ledger, uint64_t request_id,
                                                   uint64_t rank, const TokenArray& prompt,
                                                   uint32_t max_tokens, const py::bytes& params,
                                                   bool reuse) {
  PDRT_CHECK(prompt.ndim() == 1, "prompt has ", prompt.ndim(), " dimensions; give 1");
  return ledger.claim({.request_id = request_id,
                       .rank = rank,
                       .prompt = {prompt.data(), static_cast<size_t>(prompt.size())},
                       .max_tokens = max_tokens,
                       .params = static_cast<std::string_view>(params),
                       .reuse = reuse});
}

py::bytes read_params(const Ledger& ledger, uint32_t slot) {
  ledger.check_slot(slot);
  const LedgerMemory& memory = ledger.memory();
  std::string bytes(get(memory.slots[slot].num_params_bytes), '\0');
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<char>(get(memory.params_of(slot)[i]));
  }
  return py::bytes(bytes);
}

// A copy of values[start:end], of which `count` exist.
template <class T>
py::array_t<T> copy_range(const std::atomic<T>* values, uint32_t start, uint32_t end,
                          uint32_t count, const char* what) {
  PDRT_CHECK(start <= end && end <= count, "start ", start, " and end ", end,
             " are not a range of ", count, " ", what);
  py::array_t<T> out(end - start);
  for (uint32_t i = start; i < end; ++i) {
    out.mutable_data()[i - start] = values[i].load(std::memory_order_relaxed);
  }
  return out;
}

py::array_t<int32_t> tokens(const Ledger& ledger, uint32_t slot, uint32_t start, uint32_t end) {
  ledger.check_slot(slot);
  const SlotInfo info = read_info(ledger.memory(), slot);
  return copy_range(ledger.memory().tokens_of(slot), start, end,
                    info.num_prompt_tokens + info.num_output_tokens, "tokens");
}

py::array_t<float> logprobs(const Ledger& ledger, uint32_t slot, uint32_t start, uint32_t end) {
  ledger.check_slot(slot);
  const SlotInfo info = read_info(ledger.memory(), slot);
  return copy_range(ledger.memory().logprobs_of(slot), start, end,
                    info.num_prompt_tokens + info.num_output_tokens, "tokens");
}

// Ids and log-probabilities, each [end - start, count].
std::pair<py::array_t<int32_t>, py::array_t<float>> top_logprobs(const Ledger& ledger,
                                                                 uint32_t slot, uint32_t start,
                                                                 uint32_t end, uint32_t count) {
  ledger.check_slot(slot);
  const LedgerMemory& memory = ledger.memory();
  const SlotInfo info = read_info(memory, slot);
  const uint32_t num_tokens = info.num_prompt_tokens + info.num_output_tokens;
  PDRT_CHECK(start <= end && end <= num_tokens, "start ", start, " and end ", end,
             " are not a range of ", num_tokens, " tokens");
  PDRT_CHECK(count <= ledger.geometry().max_top_logprobs, "count is ", count, "; at most ",
             ledger.geometry().max_top_logprobs, " are kept");
  py::array_t<int32_t> ids({end - start, count});
  py::array_t<float> logprobs({end - start, count});
  int32_t* id = ids.mutable_data();
  float* logprob = logprobs.mutable_data();
  for (uint32_t position = start; position < end; ++position) {
    for (uint32_t k = 0; k < count; ++k) {
      *id++ = memory.top_ids_at(slot, position)[k].load(std::memory_order_relaxed);
      *logprob++ = memory.top_logprobs_at(slot, position)[k].load(std::memory_order_relaxed);
    }
  }
  return {std::move(ids), std::move(logprobs)};
}

const WorkerArea& worker_area(const Ledger& ledger, uint32_t worker) {
  PDRT_CHECK(worker < NUM_WORKERS, "worker is ", worker, "; give 0 to ", NUM_WORKERS - 1);
  return ledger.memory().header->workers[worker];
}

Outcome reap(Ledger& ledger, uint32_t instance, bool keep_filled) {
  PDRT_CHECK(NUM_WORKERS <= instance && instance <= MAX_INSTANCE, "instance is ", instance,
             "; give that of a worker, ", NUM_WORKERS, " to ", MAX_INSTANCE);
  return ledger.reap(instance, keep_filled ? Filled::KEPT : Filled::DROPPED);
}

void def_making(LedgerClass& cls) {
  cls.def_static("create", &create, py::kw_only(), py::arg("num_pages"), py::arg("page_size"),
                 py::arg("num_slots"), py::arg("max_model_len"), py::arg("sealed_bound"),
                 py::arg("max_params_bytes") = 8192, py::arg("max_top_logprobs") = 20,
                 py::arg("lock_timeout_ms") = 100, py::arg("namespace") = py::bytes())
      .def_static("attach", &Ledger::attach, py::arg("fd"));
}

template <auto Field>
void def_size(LedgerClass& cls, const char* name) {
  cls.def_property_readonly(name, [](const Ledger& ledger) { return ledger.geometry().*Field; });
}

void def_sizes(LedgerClass& cls) {
  def_size<&Geometry::num_pages>(cls, "num_pages");
  def_size<&Geometry::page_size>(cls, "page_size");
  def_size<&Geometry::num_slots>(cls, "num_slots");
  def_size<&Geometry::max_model_len>(cls, "max_model_len");
  def_size<&Geometry::sealed_bound>(cls, "sealed_bound");
  cls.def_property_readonly(
         "max_pages_per_slot",
         [](const Ledger& ledger) { return ledger.geometry().max_pages_per_slot(); })
      .def_property_readonly("fd", [](const Ledger& ledger) { return ledger.memory().fd(); })
      .def_property_readonly("num_bytes",
                             [](const Ledger& ledger) { return ledger.memory().num_bytes(); });
}

void def_slot_snapshots(LedgerClass& cls) {
  cls.def(
         "word",
         [](const Ledger& ledger, uint32_t slot) {
           ledger.check_slot(slot);
           return ledger.memory().slot_words[slot].get();
         },
         py::arg("slot"))
      .def(
          "info",
          [](const Ledger& ledger, uint32_t slot) {
            ledger.check_slot(slot);
            return read_info(ledger.memory(), slot);
          },
          py::arg("slot"))
      .def(
          "times",
          [](const Ledger& ledger, uint32_t slot) {
            ledger.check_slot(slot);
            return read_times(ledger.memory(), slot);
          },
          py::arg("slot"))
      .def("params", &read_params, py::arg("slot"))
      .def("tokens", &tokens, py::arg("slot"), py::arg("start"), py::arg("end"))
      .def("logprobs", &logprobs, py::arg("slot"), py::arg("start"), py::arg("end"))
      .def("top_logprobs", &top_logprobs, py::arg("slot"), py::arg("start"), py::arg("end"),
           py::arg("count"));
}

void def_totals(LedgerClass& cls) {
  cls.def(
         "progress",
         [](const Ledger& ledger, uint32_t worker) {
           return get(worker_area(ledger, worker).progress);
         },
         py::arg("worker"))
      .def(
          "steps",
          [](const Ledger& ledger, uint32_t worker) {
            return get(worker_area(ledger, worker).launched);
          },
          py::arg("worker"))
      .def(
          "is_computing",
          [](const Ledger& ledger, uint32_t worker) {
            return get(worker_area(ledger, worker).computing) != 0;
          },
          py::arg("worker"))
      .def("counts", [](const Ledger& ledger) { return ledger.memory().header->counts.get(); })
      .def("counters", [](const Ledger& ledger) { return read_counters(ledger.memory()); })
      .def("lock_state", [](const Ledger& ledger) { return ledger.memory().header->lock.state(); });
}

void def_operations(LedgerClass& cls) {
  cls.def("claim", &claim, py::arg("request_id"), py::arg("rank"), py::arg("prompt").noconvert(),
          py::arg("max_tokens"), py::arg("params"), py::arg("reuse") = true)
      .def("mark_abort", &Ledger::mark_abort, py::arg("slot"), py::arg("generation"))
      .def("end", &Ledger::end, py::arg("slot"), py::arg("generation"))
      .def("sweep", &Ledger::sweep, Unlocked())
      .def("reap", &reap, py::arg("instance"), py::arg("keep_filled") = true, Unlocked())
      .def("audit", &Ledger::audit, Unlocked())
      .def(
          "holder",
          [](const std::shared_ptr<Ledger>& ledger, uint32_t instance) {
            return Holder(ledger, instance);
          },
          py::arg("instance"));
}

}  // namespace

void bind_ledger(py::module_& m) {
  bind_ledger_values(m);
  LedgerClass cls(m, "Ledger");
  bind_holder(m);
  def_making(cls);
  def_sizes(cls);
  def_slot_snapshots(cls);
  def_totals(cls);
  def_operations(cls);
  bind_batch(cls);
  bind_failpoints(m);
}

}  // namespace pdrt
