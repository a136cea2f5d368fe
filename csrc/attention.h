// What paged attention computes, and the pieces into which cpu_attention.cpp cuts it.
#pragma once

#include <cstdint>

namespace pdrt {

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
};

// Some queries of one row that read one KV head. The group's heads of a row's tokens are numbered
// token by token: query i is token i / group, head kv_head * group + i % group.
struct Tile {
  int64_t row, kv_head;
  int64_t first, count;  // queries [first, first + count)
};

// Keys of one step of the running softmax: positions [64 i, 64 i + 64), whatever the page size, so
// that the order of additions is a matter of position alone.
inline constexpr int kBlock = 64;

// Keys that surely lie in one page, one after the other.
inline constexpr int kRun = 16;

// Most queries in a tile, for each instruction set.
inline constexpr int kTileAvx512 = 32;
inline constexpr int kTilePortable = 8;

// The largest scratch that a tile needs, in floats.
inline int64_t scratch_floats(const Attention& a) {
  return 2 * kTileAvx512 * a.head_dim + kTileAvx512 * kBlock + kBlock * a.head_dim;
}

void attend_avx512(const Attention& a, const Tile& tile, float* scratch);
void attend_portable(const Attention& a, const Tile& tile, float* scratch);

}  // namespace pdrt
