// Where a tile's queries, keys and values lie.
#pragma once

#include "attention.h"

namespace pdrt {

template <typename T>
class TileView {
 public:
  TileView(const Attention& a, const Tile& tile) : a_(a), tile_(tile) {
    const T* heads = static_cast<const T*>(a.kv) + tile.kv_head * a.head_stride;
    keys_ = heads;
    values_ = heads + a.value_offset;
    pages_ = a.page_table + tile.row * a.max_pages;
  }

  int64_t first(int64_t i) const { return a_.first(tile_, i); }
  int64_t limit(int64_t i) const { return a_.limit(tile_, i); }
  const T* query(int64_t i) const {
    return static_cast<const T*>(a_.query) + token(i) * a_.query_stride + head(i) * a_.head_dim;
  }
  T* out(int64_t i) const {
    return static_cast<T*>(a_.out) + (token(i) * a_.num_heads + head(i)) * a_.head_dim;
  }
  // [up to the page's end, head_dim], contiguous.
  const T* keys(int64_t position) const { return keys_ + offset(position); }
  const T* values(int64_t position) const { return values_ + offset(position); }

 private:
  int64_t token(int64_t i) const {
    return a_.cu_seqlens_q[tile_.row] + (tile_.first + i) / a_.group();
  }
  int64_t head(int64_t i) const {
    return tile_.kv_head * a_.group() + (tile_.first + i) % a_.group();
  }
  int64_t offset(int64_t position) const {
    return pages_[position / a_.page_size] * a_.page_stride + position % a_.page_size * a_.head_dim;
  }

  const Attention& a_;
  const Tile& tile_;
  const T* keys_;
  const T* values_;
  const int32_t* pages_;
};

}  // namespace pdrt
