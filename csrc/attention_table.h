// The attention kernels for one way of multiplying (attention_singles.h), as a table.
#pragma once

#include "attention_few.h"
#include "attention_tile.h"

namespace pdrt {

template <typename D, int kFew>
class AttentionTable {
  static constexpr int kLanes = D::V::kLanes;

 public:
  static void tile(const Attention& a, const Tile& tile, float* scratch) {
    if (tile.count <= kFew) return few(a, tile, scratch, [](auto& kernel) { kernel.run(); });
    if (tile.count <= kLanes) return AttentionTile<D, 1>(a, tile, scratch).run();
    AttentionTile<D, 2>(a, tile, scratch).run();
  }
  static void range(const Attention& a, const Tile& tile, int64_t start, float* state,
                    float* scratch) {
    few(a, tile, scratch, [&](auto& kernel) { kernel.range(start, state); });
  }
  static void join(const Attention& a, const Tile& tile, const float* states, int64_t num_ranges,
                   float* scratch) {
    const int64_t apart = state_floats(a);
    few(a, tile, scratch, [&](auto& kernel) { kernel.join(states, num_ranges, apart); });
  }

 private:
  // The kernel for as many queries as the tile has. From five on there is one; it computes the last
  // query more than once where there are fewer than eight.
  template <typename Use>
  static void few(const Attention& a, const Tile& tile, float* scratch, Use use) {
    switch (tile.count) {
      case 1:
        return with<1>(a, tile, scratch, use);
      case 2:
        return with<2>(a, tile, scratch, use);
      case 3:
        return with<3>(a, tile, scratch, use);
      case 4:
        return with<4>(a, tile, scratch, use);
    }
    with<kFew>(a, tile, scratch, use);
  }
  template <int kQueries, typename Use>
  static void with(const Attention& a, const Tile& tile, float* scratch, Use use) {
    AttentionFew<D, kQueries> kernel(a, tile, scratch);
    use(kernel);
  }
};

template <typename D, int kFew>
inline constexpr AttentionKernels kAttention = {
    .width = 2 * D::V::kLanes,
    .most_few = kFew,
    .tile = AttentionTable<D, kFew>::tile,
    .range = AttentionTable<D, kFew>::range,
    .join = AttentionTable<D, kFew>::join,
};

}  // namespace pdrt
