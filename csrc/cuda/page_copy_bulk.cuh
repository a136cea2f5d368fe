// Pages copied by the bulk copy engine of compute capability 9.0: memory to shared memory to
// memory, by one thread a CTA, with no registers for the data. It keeps a ring of stages in flight:
//
//   load k+3 | load k+2 | load k+1 | store k | (stage of k-1 is read out, and loaded next)
//
// A load reports to the mbarrier of its stage; stores are waited for in the order of their groups.
#pragma once

#include "page_pieces.cuh"

namespace pdrt::cuda {

inline constexpr uint32_t kStages = 4;
inline constexpr uint32_t kStageBytes = 16 * 1024;

struct BulkShared {
  alignas(128) char data[kStages][kStageBytes];
  uint64_t loaded[kStages];  // mbarriers
  Piece piece[kStages];
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ inline void init_barrier(uint64_t* barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)));
}

// Makes barriers just initialised known to the engine that arrives on them.
__device__ inline void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

__device__ inline void bulk_load(void* to, const char* from, uint32_t num_bytes,
                                 uint64_t* barrier) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(num_bytes)
      : "memory");
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(to)),
      "l"(__cvta_generic_to_global(from)), "r"(num_bytes), "r"(shared_address(barrier))
      : "memory");
}

__device__ inline void bulk_store(char* to, const void* from, uint32_t num_bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(
                   __cvta_generic_to_global(to)),
               "r"(shared_address(from)), "r"(num_bytes)
               : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Until all stores but the newest have read their stage out.
__device__ inline void wait_until_all_but_one_are_read() {
  asm volatile("cp.async.bulk.wait_group.read 1;" ::: "memory");
}

__device__ inline void wait_until_all_are_written() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

template <class Pairs>
struct BulkRing {
  const Pieces& pieces;
  const Pairs& pairs;
  BulkShared& shared;
  uint32_t next;  // the next piece of this CTA
  uint32_t num_loads = 0, num_stores = 0;

  // Begins to load the next piece that is not skipped, if there is one.
  __device__ void load() {
    for (; next < pieces.count; next += gridDim.x) {
      const Piece piece = piece_of(pieces, pairs, next);
      if (piece.num_bytes == 0) continue;
      const uint32_t stage = num_loads++ % kStages;
      shared.piece[stage] = piece;
      bulk_load(shared.data[stage], piece.source, piece.num_bytes, &shared.loaded[stage]);
      next += gridDim.x;
      return;
    }
  }

  __device__ void store() {
    const uint32_t stage = num_stores % kStages, round = num_stores / kStages;
    wait(&shared.loaded[stage], round & 1);
    const Piece& piece = shared.piece[stage];
    bulk_store(piece.destination, shared.data[stage], piece.num_bytes);
    ++num_stores;
  }
};

#endif

template <class Pairs>
__global__ void __launch_bounds__(32)
    copy_by_bulk(const __grid_constant__ Pieces pieces, const __grid_constant__ Pairs pairs) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) char memory[];
  auto& shared = *reinterpret_cast<BulkShared*>(memory);
  if (threadIdx.x != 0) return;
  for (uint64_t& barrier : shared.loaded) init_barrier(&barrier);
  publish_barriers();
  BulkRing<Pairs> ring{pieces, pairs, shared, blockIdx.x};
  for (uint32_t i = 0; i < kStages - 1; ++i) ring.load();
  while (ring.num_stores < ring.num_loads) {
    ring.store();
    wait_until_all_but_one_are_read();  // so the stage before this one is free
    ring.load();
  }
  wait_until_all_are_written();
#endif
}

}  // namespace pdrt::cuda
