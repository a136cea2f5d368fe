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

#include "attention_tile.h"
#include "simd_avx512.h"

namespace pdrt {
namespace {

template <typename T>
void attend(const Attention& a, const Tile& tile, float* scratch) {
  if (tile.count <= Avx512::kLanes)
    AttentionTile<Avx512, T, 1>(a, tile, scratch).run();
  else
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
