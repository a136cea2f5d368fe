// Launches of the page copy. The grid is at most what fills the device: CTAs take piece after
// piece.
#include <algorithm>
#include <limits>

#include "context.h"
#include "errors.h"
#include "page_copy.h"
#include "page_copy_bulk.cuh"
#include "page_copy_vector.cuh"

namespace pdrt::cuda {
namespace {

constexpr uint64_t cdiv(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit; }

Pieces pieces_of(const PageCopy& copy, int64_t num_pairs, uint32_t piece_bytes) {
  const uint64_t per_page = cdiv(copy.page_bytes, piece_bytes);
  const uint64_t count = per_page * copy.num_layers * static_cast<uint64_t>(num_pairs);
  // Below half, as a CTA steps over the end by up to a grid.
  PDRT_CHECK(count <= std::numeric_limits<uint32_t>::max() / 2, "a copy of ", num_pairs,
             " pairs of ", copy.page_bytes, " bytes in ", copy.num_layers,
             " layers is too large for one launch; split it");
  return {copy, piece_bytes, static_cast<uint32_t>(per_page), static_cast<uint32_t>(count)};
}

uint32_t num_ctas(const Pieces& pieces, const LaunchOptions& options, int ctas_per_sm) {
  int sms = attribute_of(options.device, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
  int most = options.max_ctas > 0 ? options.max_ctas : sms * ctas_per_sm;
  return std::min<uint32_t>(pieces.count, static_cast<uint32_t>(most));
}

cudaStream_t stream_of(const LaunchOptions& options) {
  return reinterpret_cast<cudaStream_t>(options.stream);
}

template <class Pairs>
void launch_by_vectors(const PageCopy& copy, const Pairs& pairs, int64_t num_pairs,
                       const LaunchOptions& options) {
  // Small pages get small CTAs, so that each still has a whole piece in flight.
  const uint64_t vectors = cdiv(copy.page_bytes, kUnroll * sizeof(uint4));
  const auto threads =
      static_cast<int>(std::clamp<uint64_t>(cdiv(vectors, 32) * 32, 64, kMaxThreads));
  const Pieces pieces = pieces_of(copy, num_pairs, threads * kUnroll * sizeof(uint4));
  const uint32_t ctas = num_ctas(pieces, options, std::min(32, 2048 / threads));
  copy_by_vectors<Pairs><<<ctas, threads, 0, stream_of(options)>>>(pieces, pairs);
  PDRT_CUDART(cudaGetLastError);
}

template <class Pairs>
void launch_by_bulk(const PageCopy& copy, const Pairs& pairs, int64_t num_pairs,
                    const LaunchOptions& options) {
  PDRT_CHECK(supports_bulk_copy(options.device), "device ", options.device, " (",
             name_of(options.device), ") has no bulk copies; they need compute capability 9.0");
  const Pieces pieces = pieces_of(copy, num_pairs, kStageBytes);
  const uint32_t ctas = num_ctas(pieces, options, 2);
  PDRT_CUDART(cudaFuncSetAttribute, copy_by_bulk<Pairs>,
              cudaFuncAttributeMaxDynamicSharedMemorySize, int{sizeof(BulkShared)});
  copy_by_bulk<Pairs><<<ctas, 32, sizeof(BulkShared), stream_of(options)>>>(pieces, pairs);
  PDRT_CUDART(cudaGetLastError);
}

template <class Pairs>
void launch(const PageCopy& copy, const Pairs& pairs, int64_t num_pairs,
            const LaunchOptions& options) {
  if (num_pairs == 0) return;
  PrimaryContext context(options.device);
  Current current(context);
  if (options.bulk)
    launch_by_bulk(copy, pairs, num_pairs, options);
  else
    launch_by_vectors(copy, pairs, num_pairs, options);
}

}  // namespace

bool supports_bulk_copy(int device) {
  return attribute_of(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) >= 9;
}

void page_copy(const PageCopy& copy, const PairList& pairs, const LaunchOptions& options) {
  if (pairs.index_bytes == 4) {
    DevicePairs<int32_t> list{reinterpret_cast<const int32_t*>(pairs.address)};
    launch(copy, list, pairs.num_pairs, options);
  } else {
    DevicePairs<int64_t> list{reinterpret_cast<const int64_t*>(pairs.address)};
    launch(copy, list, pairs.num_pairs, options);
  }
}

void page_copy(const PageCopy& copy, const InlinePairs& pairs, int num_pairs,
               const LaunchOptions& options) {
  launch(copy, ArgumentPairs{pairs}, num_pairs, options);
}

}  // namespace pdrt::cuda
