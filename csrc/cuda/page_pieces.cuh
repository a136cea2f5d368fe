// How a copy of pages falls into pieces: runs of at most piece_bytes within one page of one layer,
// numbered with the place in the page fastest, then the layer, then the pair.
#pragma once

#include <cstdint>

#include "page_copy.h"

namespace pdrt::cuda {

struct Pieces {
  PageCopy copy;
  uint32_t piece_bytes;
  uint32_t per_page;  // pieces in one page of one layer
  uint32_t count;     // of all pairs
};

// A list in memory.
template <class Index>
struct DevicePairs {
  const Index* pages;  // [num_pairs, 2]

  __device__ int64_t source(uint32_t pair) const { return pages[2 * int64_t{pair}]; }
  __device__ int64_t destination(uint32_t pair) const { return pages[2 * int64_t{pair} + 1]; }
};

// A list among the kernel's arguments.
struct ArgumentPairs {
  InlinePairs pairs;

  __device__ int64_t source(uint32_t pair) const { return pairs.page[pair][0]; }
  __device__ int64_t destination(uint32_t pair) const { return pairs.page[pair][1]; }
};

struct Piece {
  const char* source;
  char* destination;
  uint32_t num_bytes;  // 0: skipped
};

__device__ inline uint64_t page_address(const Slab& slab, int64_t page, uint32_t layer) {
  return slab.address + page * slab.page_stride + layer * slab.layer_stride;
}

template <class Pairs>
__device__ Piece piece_of(const Pieces& pieces, const Pairs& pairs, uint32_t number) {
  const PageCopy& copy = pieces.copy;
  const uint32_t run = number / pieces.per_page;  // (pair, layer)
  const uint32_t pair = run / copy.num_layers;
  const int64_t source = pairs.source(pair), destination = pairs.destination(pair);
  if (source < 0 || destination < 0) return {nullptr, nullptr, 0};
  const uint32_t layer = run - pair * copy.num_layers;
  const uint64_t start = uint64_t{number - run * pieces.per_page} * pieces.piece_bytes;
  const uint64_t rest = copy.page_bytes - start;
  const auto num_bytes = rest < pieces.piece_bytes ? uint32_t(rest) : pieces.piece_bytes;
  return {reinterpret_cast<const char*>(page_address(copy.source, source, layer) + start),
          reinterpret_cast<char*>(page_address(copy.destination, destination, layer) + start),
          num_bytes};
}

}  // namespace pdrt::cuda
