// Paged attention with AVX-512.
#include "attention.h"

#ifdef __x86_64__

// Outside the region below; see simd_target.h.
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "attention_view.h"
#include "bfloat16.h"
#include "simd_target.h"

PDRT_BEGIN_AVX512

#include "attention_few.h"
#include "attention_tile.h"
#include "simd_avx512.h"

namespace pdrt {
namespace {

// Up to 8 queries are faster with few-query kernels; where one is wider than the tile, it computes
// its last query more than once.
template <typename T>
void attend(const Attention& a, const Tile& tile, float* scratch) {
  switch (tile.count) {
    case 1:
      return AttentionFew<T, 1>(a, tile, scratch).run();
    case 2:
      return AttentionFew<T, 2>(a, tile, scratch).run();
    case 3:
      return AttentionFew<T, 3>(a, tile, scratch).run();
    case 4:
      return AttentionFew<T, 4>(a, tile, scratch).run();
  }
  if (tile.count <= 8) return AttentionFew<T, 8>(a, tile, scratch).run();
  if (tile.count <= Avx512::kLanes) return AttentionTile<Avx512, T, 1>(a, tile, scratch).run();
  AttentionTile<Avx512, T, 2>(a, tile, scratch).run();
}

}  // namespace

void attend_avx512(const Attention& a, const Tile& tile, float* scratch) {
  a.is_bfloat16 ? attend<bfloat16>(a, tile, scratch) : attend<float>(a, tile, scratch);
}

}  // namespace pdrt

PDRT_END_AVX512

#else

namespace pdrt {

// Never chosen here; see cpu_isa.cpp.
void attend_avx512(const Attention& a, const Tile& tile, float* scratch) {
  attend_portable(a, tile, scratch);
}

}  // namespace pdrt

#endif
