// Paged attention for machines without AVX-512.
#include "attention_tile.h"
#include "simd_portable.h"

namespace pdrt {
namespace {

template <typename T>
void attend(const Attention& a, const Tile& tile, float* scratch) {
  if (tile.count <= Portable::kLanes)
    AttentionTile<Portable, T, 1>(a, tile, scratch).run();
  else
    AttentionTile<Portable, T, 2>(a, tile, scratch).run();
}

}  // namespace

void attend_portable(const Attention& a, const Tile& tile, float* scratch) {
  a.is_bfloat16 ? attend<bfloat16>(a, tile, scratch) : attend<float>(a, tile, scratch);
}

}  // namespace pdrt
