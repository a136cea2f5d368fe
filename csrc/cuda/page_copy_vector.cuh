// Pages copied through registers: 16-byte loads, four in flight for each thread. Works between any
// two memories that the device can address.
#pragma once

#include "page_pieces.cuh"

namespace pdrt::cuda {

inline constexpr int kUnroll = 4;
inline constexpr int kMaxThreads = 512;

// A CTA takes one piece at a time: blockDim.x * kUnroll vectors.
template <class Pairs>
__global__ void __launch_bounds__(kMaxThreads, 4)
    copy_by_vectors(const __grid_constant__ Pieces pieces, const __grid_constant__ Pairs pairs) {
  for (uint32_t number = blockIdx.x; number < pieces.count; number += gridDim.x) {
    const Piece piece = piece_of(pieces, pairs, number);
    const auto* source = reinterpret_cast<const uint4*>(piece.source);
    auto* destination = reinterpret_cast<uint4*>(piece.destination);
    const uint32_t num_vectors = piece.num_bytes / sizeof(uint4);
    uint4 held[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const uint32_t at = threadIdx.x + i * blockDim.x;
      if (at < num_vectors) held[i] = __ldcs(source + at);  // read once: first to leave the cache
    }
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const uint32_t at = threadIdx.x + i * blockDim.x;
      if (at < num_vectors) __stwb(destination + at, held[i]);  // stays for the next reader
    }
  }
}

}  // namespace pdrt::cuda
