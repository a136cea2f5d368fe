// Copies of pages between two slabs of memory that a device can address: its own, a peer's, or
// pinned memory of the host. One launch copies a list of (source page, destination page) over all
// layers; it serves forks (pdrt/runner/page_copier.py), hand-off to a peer, offload to the host and
// defragmentation.
#pragma once

#include <cstdint>

namespace pdrt::cuda {

// Where the pages of a slab lie: the part of page p in layer l begins at
// address + p * page_stride + l * layer_stride. All are multiples of 16.
struct Slab {
  uint64_t address;
  int64_t page_stride, layer_stride;
};

struct PageCopy {
  Slab source, destination;
  uint64_t page_bytes;  // of one page in one layer, a multiple of 16
  uint32_t num_layers = 1;
};

// [num_pairs, 2] integers on the device or in pinned memory; a pair with a negative one is skipped.
struct PairList {
  uint64_t address;
  int64_t num_pairs;
  int index_bytes;  // 4 or 8
};

// As many pairs as travel as arguments of a kernel, which are 4 KiB.
inline constexpr int kInlinePairs = 448;
struct InlinePairs {
  int32_t page[kInlinePairs][2];
};

struct LaunchOptions {
  int device;
  uint64_t stream;
  int max_ctas = 0;   // 0: as many as fill the device
  bool bulk = false;  // by the bulk engine, compute capability 9.0 and later
};

// Launch and return. Throw CudaError; std::invalid_argument where bulk is asked of an older device.
void page_copy(const PageCopy& copy, const PairList& pairs, const LaunchOptions& options);
void page_copy(const PageCopy& copy, const InlinePairs& pairs, int num_pairs,
               const LaunchOptions& options);

bool supports_bulk_copy(int device);

}  // namespace pdrt::cuda
