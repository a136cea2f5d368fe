// What paged attention computes, and the pieces into which cpu_attention.cpp cuts it.
#pragma once

#include <cstdint>

namespace pdrt {

// Some queries of one row that read one KV head. The group's heads of a row's tokens are numbered
// token by token: query i is token i / group, head kv_head * group + i % group.
struct Tile {
  int64_t row, kv_head;
  int64_t first, count;  // queries [first, first + count)
};

// Rows are requests; query tokens lie packed, row after row. All strides are in elements.
struct Attention {
  void* out;                    // [num_tokens, num_heads, head_dim], contiguous
  const void* query;            // [num_tokens, num_heads, head_dim], tokens query_stride apart
  const void* kv;               // this layer's K in page 0: [num_kv_heads, page_size, head_dim]
  const int32_t* page_table;    // [num_rows, max_pages]
  const int32_t* cu_seqlens_q;  // [num_rows + 1]: row i has query tokens [i] to [i + 1]
  const int32_t* seq_lens;      // [num_rows]: KV tokens, the new ones included
  int64_t num_tokens, num_rows, num_heads, num_kv_heads, head_dim;
  int64_t num_pages, page_size, max_pages;
  int64_t query_stride;  // token to token
  int64_t page_stride;   // page to page
  int64_t value_offset;  // K to V of the same page
  int64_t head_stride;   // KV head to KV head
  int64_t window;        // positions that a token sees, its own included; 0: all up to its own
  float scale;
  bool is_bfloat16;

  int64_t group() const { return num_heads / num_kv_heads; }
  int64_t num_new(int64_t row) const { return cu_seqlens_q[row + 1] - cu_seqlens_q[row]; }

  // Query i of a tile sees the positions [first, limit). Neither falls from i to i + 1.
  int64_t first(const Tile& tile, int64_t i) const {
    const int64_t end = limit(tile, i);
    return window > 0 && window < end ? end - window : 0;
  }
  int64_t limit(const Tile& tile, int64_t i) const {
    return seq_lens[tile.row] - num_new(tile.row) + (tile.first + i) / group() + 1;
  }
};

// Keys of one step of the running softmax: positions [64 i, 64 i + 64), whatever the page size, so
// that the order of additions is a matter of position alone.
inline constexpr int kBlock = 64;

// Positions [512 i, 512 i + 512) have a running softmax of their own; those of a row are combined
// in order. So each can be computed by another thread.
inline constexpr int kRange = 512;

// Keys that surely lie in one page, one after the other.
inline constexpr int kRun = 16;

// Most queries in a tile, and in one that can be computed range by range.
inline constexpr int kWidestTile = 32;
inline constexpr int kMostFew = 8;

// The largest scratch that a tile needs, in floats.
inline int64_t scratch_floats(const Attention& a) {
  return 3 * kWidestTile * (a.head_dim + kRun) + kWidestTile * kBlock + kBlock * a.head_dim;
}

// What one range of a tile of few queries leaves, in floats; a multiple of a cache line.
inline int64_t state_floats(const Attention& a) {
  return kMostFew * ((a.head_dim + 31) / 32 * 32 + 2);
}

// How tiles are computed, for one instruction set and one dtype.
struct AttentionKernels {
  int64_t width;     // most queries in a tile
  int64_t most_few;  // and in one that `range` and `join` take

  // All of a tile.
  void (*tile)(const Attention& a, const Tile& tile, float* scratch);
  // The positions from `start` on, up to the end of their range; to `state`.
  void (*range)(const Attention& a, const Tile& tile, int64_t start, float* state, float* scratch);
  // The result of a tile from those of its ranges, which lie state_floats apart.
  void (*join)(const Attention& a, const Tile& tile, const float* states, int64_t num_ranges,
               float* scratch);
};

const AttentionKernels& attention_portable(bool is_bfloat16);
const AttentionKernels& attention_avx2(bool is_bfloat16);
const AttentionKernels& attention_avx512(bool is_bfloat16);
const AttentionKernels& attention_avx512_bf16();  // for bfloat16 and an even head_dim

}  // namespace pdrt
