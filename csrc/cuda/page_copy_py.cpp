// The page copy for Python: arguments are checked here once, then trusted.
#include <pybind11/numpy.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <unordered_set>

#include "bindings.h"
#include "errors.h"
#include "page_copy.h"

namespace py = pybind11;

namespace pdrt::cuda {
namespace {

constexpr uint64_t kVector = 16;  // bytes that a thread moves at once

void check_aligned(const char* name, int64_t value) {
  PDRT_CHECK(value % static_cast<int64_t>(kVector) == 0, name, " is ", value,
             "; it must be a multiple of ", kVector);
}

void check_slab(const char* name, const Slab& slab) {
  PDRT_CHECK(slab.address != 0, name, " is 0; give the address of a slab");
  check_aligned(name, static_cast<int64_t>(slab.address));
  check_aligned("a page stride", slab.page_stride);
  check_aligned("a layer stride", slab.layer_stride);
}

void check_copy(const PageCopy& copy) {
  PDRT_CHECK(copy.page_bytes > 0, "page_bytes is 0; give the size of a page");
  check_aligned("page_bytes", static_cast<int64_t>(copy.page_bytes));
  PDRT_CHECK(copy.num_layers > 0, "num_layers is 0; give 1 or more");
  check_slab("source", copy.source);
  check_slab("destination", copy.destination);
}

void check_list(const PairList& pairs) {
  PDRT_CHECK(pairs.num_pairs >= 0, "num_pairs is ", pairs.num_pairs, "; give 0 or more");
  PDRT_CHECK(pairs.index_bytes == 4 || pairs.index_bytes == 8, "index_bytes is ", pairs.index_bytes,
             "; give 4 or 8");
  PDRT_CHECK(pairs.num_pairs == 0 || pairs.address != 0,
             "pairs is 0; give the address of the list");
  PDRT_CHECK(pairs.address % pairs.index_bytes == 0, "pairs is ", pairs.address,
             "; it must be a multiple of index_bytes, ", pairs.index_bytes);
}

void check_options(const LaunchOptions& options) {
  PDRT_CHECK(options.device >= 0, "device is ", options.device, "; devices are numbered from 0");
  PDRT_CHECK(options.max_ctas >= 0, "max_ctas is ", options.max_ctas, "; give 0 or more");
}

PageCopy contiguous(uint64_t source, uint64_t destination, uint64_t page_bytes) {
  auto stride = static_cast<int64_t>(page_bytes);
  return {{source, stride, 0}, {destination, stride, 0}, page_bytes};
}

void run(const PageCopy& copy, const PairList& pairs, const LaunchOptions& options) {
  check_copy(copy);
  check_list(pairs);
  check_options(options);
  py::gil_scoped_release release;
  page_copy(copy, pairs, options);
}

// -- lists of the host ----------------------------------------------------------------------------

using Pairs = py::array_t<int64_t, py::array::c_style | py::array::forcecast>;

bool is_skipped(int64_t source, int64_t destination) { return source < 0 || destination < 0; }

// No page may be written twice, nor read and written: the order of pairs is not defined.
void check_pages(const Pairs& pairs, bool same_slab) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  auto page = pairs.unchecked<2>();
  std::unordered_set<int64_t> written;
  for (py::ssize_t i = 0; i < page.shape(0); ++i) {
    if (is_skipped(page(i, 0), page(i, 1))) continue;
    PDRT_CHECK(page(i, 0) <= kMost && page(i, 1) <= kMost, "pair ", i, " is (", page(i, 0), ", ",
               page(i, 1), "); pages are at most ", kMost);
    PDRT_CHECK(written.insert(page(i, 1)).second, "page ", page(i, 1),
               " is the destination of two pairs; the order of pairs is not defined");
  }
  if (!same_slab) return;
  for (py::ssize_t i = 0; i < page.shape(0); ++i)
    PDRT_CHECK(is_skipped(page(i, 0), page(i, 1)) || !written.contains(page(i, 0)), "page ",
               page(i, 0), " is both a source and a destination of one slab; copy in two calls");
}

InlinePairs slice(const Pairs& pairs, py::ssize_t start, py::ssize_t count) {
  auto page = pairs.unchecked<2>();
  InlinePairs taken{};
  for (py::ssize_t i = 0; i < count; ++i)
    for (int side : {0, 1})
      taken.page[i][side] = static_cast<int32_t>(std::max<int64_t>(page(start + i, side), -1));
  return taken;
}

void run_list(const PageCopy& copy, const Pairs& pairs, const LaunchOptions& options) {
  check_copy(copy);
  check_options(options);
  PDRT_CHECK(pairs.size() == 0 || (pairs.ndim() == 2 && pairs.shape(1) == 2),
             "pairs has not the shape [n, 2]; give (source page, destination page) each");
  if (pairs.size() == 0) return;
  check_pages(pairs, copy.source.address == copy.destination.address);
  for (py::ssize_t start = 0; start < pairs.shape(0); start += kInlinePairs) {
    auto count = std::min<py::ssize_t>(kInlinePairs, pairs.shape(0) - start);
    InlinePairs taken = slice(pairs, start, count);
    py::gil_scoped_release release;
    page_copy(copy, taken, static_cast<int>(count), options);
  }
}

}  // namespace

void bind_page_copy(py::module_& m) {
  m.def(
      "page_copy",
      [](int device, uint64_t stream, uint64_t source, uint64_t destination, uint64_t page_bytes,
         uint64_t pairs, int64_t num_pairs, int index_bytes, int max_ctas, bool bulk) {
        run(contiguous(source, destination, page_bytes), {pairs, num_pairs, index_bytes},
            {device, stream, max_ctas, bulk});
      },
      py::kw_only(), py::arg("device"), py::arg("stream"), py::arg("source"),
      py::arg("destination"), py::arg("page_bytes"), py::arg("pairs"), py::arg("num_pairs"),
      py::arg("index_bytes") = 8, py::arg("max_ctas") = 0, py::arg("bulk") = false);
  m.def(
      "page_copy_list",
      [](int device, uint64_t stream, uint64_t source, uint64_t destination, uint64_t page_bytes,
         const Pairs& pairs, int max_ctas, bool bulk) {
        run_list(contiguous(source, destination, page_bytes), pairs,
                 {device, stream, max_ctas, bulk});
      },
      py::kw_only(), py::arg("device"), py::arg("stream"), py::arg("source"),
      py::arg("destination"), py::arg("page_bytes"), py::arg("pairs"), py::arg("max_ctas") = 0,
      py::arg("bulk") = false);
  m.def(
      "page_copy_strided",
      [](int device, uint64_t stream, uint64_t source, uint64_t destination, uint64_t page_bytes,
         uint32_t num_layers, int64_t source_page_stride, int64_t source_layer_stride,
         int64_t destination_page_stride, int64_t destination_layer_stride, uint64_t pairs,
         int64_t num_pairs, int index_bytes, int max_ctas, bool bulk) {
        run({{source, source_page_stride, source_layer_stride},
             {destination, destination_page_stride, destination_layer_stride},
             page_bytes,
             num_layers},
            {pairs, num_pairs, index_bytes}, {device, stream, max_ctas, bulk});
      },
      py::kw_only(), py::arg("device"), py::arg("stream"), py::arg("source"),
      py::arg("destination"), py::arg("page_bytes"), py::arg("num_layers"),
      py::arg("source_page_stride"), py::arg("source_layer_stride"),
      py::arg("destination_page_stride"), py::arg("destination_layer_stride"), py::arg("pairs"),
      py::arg("num_pairs"), py::arg("index_bytes") = 8, py::arg("max_ctas") = 0,
      py::arg("bulk") = false);
}

}  // namespace pdrt::cuda
