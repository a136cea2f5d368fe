// What only the tests' build offers: deaths at chosen writes, and where things lie.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "ledger_bindings.h"

#ifdef PDRT_FAILPOINTS

#include <map>
#include <string>

#include "failpoints.h"
#include "ledger.h"

namespace py = pybind11;

namespace pdrt {
namespace {

// Bytes from the start of the memory file, by name of the region.
std::map<std::string, size_t> region_offsets(const Ledger& ledger) {
  const LedgerMemory& m = ledger.memory();
  const auto offset = [&](const void* region) {
    return static_cast<size_t>(static_cast<const char*>(region) -
                               reinterpret_cast<const char*>(m.header));
  };
  return {{"slot_words", offset(m.slot_words)},
          {"lengths", offset(m.lengths)},
          {"lists", offset(m.lists)},
          {"page_words", offset(m.page_words)},
          {"tags", offset(m.tags)},
          {"readers", offset(m.readers)},
          {"links", offset(m.links)},
          {"buckets", offset(m.buckets)},
          {"derived", offset(&m.header->derived)}};
}

py::bytes siphash(const py::bytes& key, const py::bytes& data) {
  Digest secret;
  const std::string_view bytes = key, message = data;
  PDRT_CHECK(bytes.size() == sizeof secret, "key has ", bytes.size(), " bytes; give 16");
  std::memcpy(&secret, bytes.data(), sizeof secret);
  const Digest digest = siphash128(secret, message.data(), message.size());
  return py::bytes(reinterpret_cast<const char*>(&digest), sizeof digest);
}

}  // namespace

void bind_failpoints(py::module_& m) {
  m.def("failpoint_arm", &failpoint_arm, py::arg("n"), py::arg("stop") = false);
  m.def("shared_writes", &shared_writes);
  m.def("region_offsets", &region_offsets, py::arg("ledger"));
  m.def("siphash128", &siphash, py::arg("key"), py::arg("data"));
}

}  // namespace pdrt

#else

namespace pdrt {

void bind_failpoints(pybind11::module_&) {}

}  // namespace pdrt

#endif
