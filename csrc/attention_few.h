// Attention of few queries, as in decode: lanes are keys for the scores and dimensions for the
// sums.
//
// Each score and each sum is the same chain of operations as in attention_tile.h, so the bits are
// the same. Every key and value is read once for all queries of the tile, that is, once for the
// heads of a group. Include it after PDRT_BEGIN_AVX512.
#pragma once

#include <algorithm>
#include <limits>

#include "attention_view.h"
#include "simd_avx512.h"
#include "simd_math.h"
#include "transpose16_avx512.h"

namespace pdrt {

template <typename T, int kQueries>
class AttentionFew {
  using V = Avx512;
  using F = V::Floats;
  static constexpr int kLanes = V::kLanes;
  static_assert(kLanes == kRun);

 public:
  AttentionFew(const Attention& a, const Tile& tile, float* scratch)
      : view_(a, tile),
        count_(static_cast<int>(tile.count)),
        head_dim_(static_cast<int>(a.head_dim)),
        padded_((head_dim_ + kLanes - 1) / kLanes * kLanes),
        scale_(a.scale),
        query_(scratch),
        sum_(query_ + kQueries * padded_) {}

  void run() {
    load();
    const int64_t first = view_.first(0), end = view_.limit(count_ - 1);
    for (start_ = first / kBlock * kBlock; start_ < end; start_ += kBlock) {
      num_keys_ = static_cast<int>(std::min<int64_t>(kBlock, end - start_));
      for (int i = 0; i < kQueries; ++i) {
        from_[i] = static_cast<int>(std::clamp<int64_t>(first_[i] - start_, 0, num_keys_));
        to_[i] = static_cast<int>(std::clamp<int64_t>(limit_[i] - start_, from_[i], num_keys_));
      }
      scores();
      for (int i = 0; i < kQueries; ++i) softmax(i);
      values();
    }
    store();
  }

 private:
  // Where the tile has fewer than kQueries, its last one stands in for the rest.
  void load() {
    for (int i = 0; i < kQueries; ++i) {
      const int source = std::min(i, count_ - 1);
      first_[i] = view_.first(source);
      limit_[i] = view_.limit(source);
      for (int d = 0; d < padded_; d += kLanes) {
        const int count = std::min(kLanes, head_dim_ - d);
        V::store(query_ + i * padded_ + d, V::load_first(view_.query(source) + d, count));
        V::store(sum_ + i * padded_ + d, V::set(0.0f));
      }
      max_[i] = -std::numeric_limits<float>::infinity();
      total_[i] = 0.0f;
    }
  }

  // weight_[i][j] = scale * query i . key j
  void scores() {
    int end;
    for (int j = from_[0]; j < num_keys_; j = end) {
      end = std::min(first_of_run(j) + kRun, num_keys_);
      const T* keys = view_.keys(start_ + j);
      F acc[kQueries] = {};
      for (int d = 0; d < head_dim_; d += kLanes) multiply(keys + d, end - j, d, acc);
      for (int i = 0; i < kQueries; ++i) V::store(weight_[i] + j, acc[i] * V::set(scale_));
    }
  }

  // Adds the products of up to 16 dimensions, beginning with d, for up to 16 keys.
  void multiply(const T* keys, int count, int d, F (&acc)[kQueries]) const {
    const int width = std::min(kLanes, head_dim_ - d);
    F columns[kLanes];
    if (count == kRun && width == kLanes) {
#pragma GCC unroll 16
      for (int j = 0; j < kRun; ++j) columns[j] = V::load(keys + j * head_dim_);
    } else {
      for (int j = 0; j < kRun; ++j)
        columns[j] = j < count ? V::load_first(keys + j * head_dim_, width) : V::set(0.0f);
    }
    transpose16(columns);
#pragma GCC unroll 16
    for (int c = 0; c < kLanes; ++c) {
      if (c >= width) break;
      for (int i = 0; i < kQueries; ++i)
        acc[i] = V::fma(V::set(query_[i * padded_ + d + c]), columns[c], acc[i]);
    }
  }

  // weight_[i] from scores to exp(score - max); updates max_, total_ and correction_.
  void softmax(int i) {
    correction_[i] = 1.0f;
    if (from_[i] == to_[i]) return;
    const F hidden = V::set(-std::numeric_limits<float>::infinity());
    F score[kBlock / kLanes], max = V::set(max_[i]);
    for (int v = 0; v < kBlock / kLanes; ++v) {
      const int from = std::clamp(from_[i] - v * kLanes, 0, kLanes);
      const int to = std::clamp(to_[i] - v * kLanes, 0, kLanes);
      const V::Mask seen = V::first(to) & ~V::first(from);
      score[v] = V::select(seen, V::load(weight_[i] + v * kLanes), hidden);
      max = V::max(max, score[v]);
    }
    max = V::set(_mm512_reduce_max_ps(max));
    const float correction = _mm512_cvtss_f32(exp<V>(V::set(max_[i]) - max));
    for (int v = 0; v < kBlock / kLanes; ++v)
      V::store(weight_[i] + v * kLanes, exp<V>(score[v] - max));
    float total = total_[i] * correction;
    for (int j = from_[i]; j < to_[i]; ++j) total += weight_[i][j];
    correction_[i] = correction;
    total_[i] = total;
    max_[i] = _mm512_cvtss_f32(max);
  }

  // sum_ = sum_ * correction_ + weights . values
  void values() {
    const T* runs[kBlock / kRun];
    for (int run = first_of_run(from_[0]); run < num_keys_; run += kRun)
      runs[run / kRun] = view_.values(start_ + run);
    constexpr int kVectors = kQueries > 4 ? 2 : 4;
    int d = 0;
    for (; d + kVectors * kLanes <= head_dim_; d += kVectors * kLanes) value<kVectors>(runs, d);
    for (; d < head_dim_; d += kLanes) value<1>(runs, d);
  }

  // kVectors vectors of dimensions from d on; the last one of the head may be partly filled.
  template <int kVectors>
  void value(const T* const* runs, int d) {
    const int width = std::min(kLanes, head_dim_ - d);
    // j is unsigned, so that the division is a shift.
    const auto load = [&](unsigned j, int v) {
      const T* row = runs[j / kRun] + j % kRun * head_dim_ + d;
      return kVectors > 1 ? V::load(row + v * kLanes) : V::load_first(row, width);
    };
    F acc[kQueries][kVectors];
    for (int i = 0; i < kQueries; ++i)
      for (int v = 0; v < kVectors; ++v)
        acc[i][v] = V::load(sum_ + i * padded_ + d + v * kLanes) * V::set(correction_[i]);
    // Where a window begins for some queries and not yet for others, each goes alone.
    const int seen_by_all = from_[0] == from_[kQueries - 1] ? to_[0] : from_[0];
    for (int j = from_[0]; j < seen_by_all; ++j) {
      F value[kVectors];
      for (int v = 0; v < kVectors; ++v) value[v] = load(j, v);
      for (int i = 0; i < kQueries; ++i)
        for (int v = 0; v < kVectors; ++v)
          acc[i][v] = V::fma(V::set(weight_[i][j]), value[v], acc[i][v]);
    }
    for (int i = 0; i < kQueries; ++i)
      for (int j = std::max(from_[i], seen_by_all); j < to_[i]; ++j)
        for (int v = 0; v < kVectors; ++v)
          acc[i][v] = V::fma(V::set(weight_[i][j]), load(j, v), acc[i][v]);
    for (int i = 0; i < kQueries; ++i)
      for (int v = 0; v < kVectors; ++v) V::store(sum_ + i * padded_ + d + v * kLanes, acc[i][v]);
  }

  void store() const {
    for (int i = 0; i < count_; ++i)
      for (int d = 0; d < head_dim_; d += kLanes) {
        const F out = V::load(sum_ + i * padded_ + d) / V::set(total_[i]);
        V::store_first(view_.out(i) + d, out, std::min(kLanes, head_dim_ - d));
      }
  }

  static int first_of_run(int j) { return j / kRun * kRun; }

  const TileView<T> view_;
  const int count_, head_dim_;
  const int padded_;  // head_dim, up to whole vectors
  const float scale_;
  float* const query_;                                 // [kQueries][padded_]
  float* const sum_;                                   // [kQueries][padded_]
  alignas(64) float weight_[kQueries][kBlock + kRun];  // a run that begins late is stored whole
  int64_t first_[kQueries], limit_[kQueries];          // query i sees the positions [first, limit)
  int from_[kQueries], to_[kQueries];                  // and the keys [from, to) of this block
  float max_[kQueries], total_[kQueries], correction_[kQueries];
  int64_t start_ = 0;  // the block's first position
  int num_keys_ = 0;
};

}  // namespace pdrt
