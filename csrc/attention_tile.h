// Attention of many queries at once, one query in each lane.
//
// Keys and values are broadcast element by element, straight from their pages, so nothing is
// transposed and any head_dim works. Each lane computes as if it were alone:
//
//     for each block of 64 positions
//         s_j = scale * (q_0 k_j0 + q_1 k_j1 + ...)       one chain of multiply-adds over head_dim
//         m'  = max(m, s_j...), correction = exp(m - m')
//         p_j = exp(s_j - m')
//         l   = l * correction + p_0 + p_1 + ...          one chain over positions
//         o_d = o_d * correction + p_0 v_0d + p_1 v_1d + ...  one chain over positions
//     out_d = o_d / l
//
// and a position that a lane may not see changes none of its bits: its p is exactly 0, its product
// is not added, and a block without any leaves m, l and o alone (a correction of 1 is exact; so
// that this holds also before the first one seen, m begins as the least float, not as -infinity).
// So a query's result depends on neither its neighbours nor the tile. attention_few.h gives the
// same bits with the work laid out for few queries.
//
// Positions before the first one that any lane sees, as with a window, are neither read nor
// computed.
#pragma once

#include <algorithm>
#include <limits>

#include "attention_view.h"
#include "bfloat16.h"
#include "simd_math.h"

namespace pdrt {

template <typename V, typename T, int kVectors>
class AttentionTile {
  using F = typename V::Floats;
  static constexpr int kLanes = V::kLanes;
  static constexpr int kWidth = kVectors * kLanes;  // queries
  static constexpr int kChunk = 8;                  // keys, or dimensions, in registers at once

 public:
  AttentionTile(const Attention& a, const Tile& tile, float* scratch)
      : view_(a, tile),
        count_(static_cast<int>(tile.count)),
        head_dim_(a.head_dim),
        scale_(a.scale),
        query_(scratch),
        sum_(query_ + kWidth * head_dim_),
        weight_(sum_ + kWidth * head_dim_),
        widened_(weight_ + kWidth * kBlock) {}

  void run() {
    load();
    const int64_t first = view_.first(0), end = view_.limit(count_ - 1);
    for (start_ = first / kBlock * kBlock; start_ < end; start_ += kBlock) {
      skip_ = static_cast<int>(std::max<int64_t>(first - start_, 0));
      num_keys_ = static_cast<int>(std::min<int64_t>(kBlock, end - start_));
      scores();
      softmax();
      values();
    }
    store();
  }

 private:
  // Queries are transposed to [head_dim][kWidth]; lanes without a query see what the last one sees.
  void load() {
    for (int i = 0; i < kWidth; ++i) {
      const T* query = i < count_ ? view_.query(i) : nullptr;
      for (int64_t d = 0; d < head_dim_; ++d)
        query_[d * kWidth + i] = query ? to_float(query[d]) : 0.0f;
      first_[i] = static_cast<int32_t>(view_.first(std::min(i, count_ - 1)));
      limit_[i] = static_cast<int32_t>(view_.limit(std::min(i, count_ - 1)));
    }
    for (int64_t i = 0; i < kWidth * head_dim_; ++i) sum_[i] = 0.0f;
    for (int v = 0; v < kVectors; ++v) {
      max_[v] = V::set(std::numeric_limits<float>::lowest());
      total_[v] = V::set(0.0f);
    }
  }

  // weight_[j] = scale * query . key j
  void scores() {
    for (int run = first_run(); run < num_keys_; run += kRun) {
      const int count = std::min(kRun, num_keys_ - run);
      int j = std::max(skip_ - run, 0);
      const float* keys = widen(view_.keys(start_ + run), j, count, widened_);
      for (; j + kChunk <= count; j += kChunk)
        score<kChunk>(keys + j * head_dim_, weight_ + (run + j) * kWidth);
      for (; j < count; ++j) score<1>(keys + j * head_dim_, weight_ + (run + j) * kWidth);
    }
  }

  template <int kKeys>
  void score(const float* keys, float* out) const {
    F acc[kKeys][kVectors] = {};
    for (int64_t d = 0; d < head_dim_; ++d) {
      F query[kVectors];
      for (int v = 0; v < kVectors; ++v) query[v] = V::load(query_ + d * kWidth + v * kLanes);
#pragma GCC unroll 8
      for (int j = 0; j < kKeys; ++j) {
        const F key = V::set(keys[j * head_dim_ + d]);
        for (int v = 0; v < kVectors; ++v) acc[j][v] = V::fma(query[v], key, acc[j][v]);
      }
    }
    for (int j = 0; j < kKeys; ++j)
      for (int v = 0; v < kVectors; ++v)
        V::store(out + j * kWidth + v * kLanes, acc[j][v] * V::set(scale_));
  }

  // weight_ from scores to exp(score - max); updates max_, total_ and correction_.
  void softmax() {
    mask();
    for (int v = 0; v < kVectors; ++v) {
      F max = max_[v];
      for (int j = skip_; j < num_keys_; ++j) max = V::max(max, weight(j, v));
      correction_[v] = exp<V>(max_[v] - max);
      max_[v] = max;
      F total = total_[v] * correction_[v];
      for (int j = skip_; j < num_keys_; ++j) {
        const F p = exp<V>(weight(j, v) - max);
        total = total + p;
        V::store(weight_ + j * kWidth + v * kLanes, p);
      }
      total_[v] = total;
    }
  }

  void mask() {
    const F hidden = V::set(-std::numeric_limits<float>::infinity());
    for (int j = seen_by_all(); j < num_keys_; ++j)
      for (int v = 0; v < kVectors; ++v) {
        sees_[j][v] = sees(static_cast<int32_t>(start_ + j), v);
        V::store(weight_ + j * kWidth + v * kLanes, V::select(sees_[j][v], weight(j, v), hidden));
      }
  }

  // sum_ = sum_ * correction_ + weights . values
  void values() {
    const float* runs[kBlock / kRun];
    for (int run = first_run(); run < num_keys_; run += kRun) {
      float* buffer = widened_ + run * head_dim_;
      const int count = std::min(kRun, num_keys_ - run);
      const int first = std::max(skip_ - run, 0);
      runs[run / kRun] = widen(view_.values(start_ + run), first, count, buffer);
    }
    int64_t d = 0;
    for (; d + kChunk <= head_dim_; d += kChunk) value<kChunk>(runs, d);
    for (; d < head_dim_; ++d) value<1>(runs, d);
  }

  // Dimensions [d, d + kDims) of sum_.
  template <int kDims>
  void value(const float* const* runs, int64_t d) const {
    F acc[kDims][kVectors];
    float* sum = sum_ + d * kWidth;
    for (int i = 0; i < kDims; ++i)
      for (int v = 0; v < kVectors; ++v)
        acc[i][v] = V::load(sum + i * kWidth + v * kLanes) * correction_[v];
    // Unsigned, so that the division is a shift.
    const auto row = [&](unsigned j) { return runs[j / kRun] + j % kRun * head_dim_ + d; };
    const int seen = seen_by_all();
    for (int j = skip_; j < seen; ++j) {
      for (int i = 0; i < kDims; ++i)
        for (int v = 0; v < kVectors; ++v)
          acc[i][v] = V::fma(weight(j, v), V::set(row(j)[i]), acc[i][v]);
    }
    for (int j = seen; j < num_keys_; ++j) {
      for (int i = 0; i < kDims; ++i)
        for (int v = 0; v < kVectors; ++v)
          acc[i][v] = V::fma_where(sees_[j][v], weight(j, v), V::set(row(j)[i]), acc[i][v]);
    }
    for (int i = 0; i < kDims; ++i)
      for (int v = 0; v < kVectors; ++v) V::store(sum + i * kWidth + v * kLanes, acc[i][v]);
  }

  void store() {
    for (int v = 0; v < kVectors; ++v)
      for (int64_t d = 0; d < head_dim_; ++d) {
        float* sum = sum_ + d * kWidth + v * kLanes;
        V::store(sum, V::load(sum) / total_[v]);
      }
    for (int i = 0; i < count_; ++i) {
      T* out = view_.out(i);
      for (int64_t d = 0; d < head_dim_; ++d) from_float(sum_[d * kWidth + i], out + d);
    }
  }

  F weight(int j, int v) const { return V::load(weight_ + j * kWidth + v * kLanes); }

  // The run of the first key that is read.
  int first_run() const { return skip_ / kRun * kRun; }

  // All queries see the keys [skip_, seen_by_all()) of this block. Where a window begins for some
  // of them and not yet for others, there are none, and all keys are masked.
  int seen_by_all() const {
    if (first_[kWidth - 1] > start_ + skip_) return skip_;
    return static_cast<int>(std::clamp<int64_t>(limit_[0] - start_, skip_, num_keys_));
  }
  typename V::Mask sees(int32_t position, int v) const {
    return V::greater(V::load_ints(limit_ + v * kLanes), position) &
           ~V::greater(V::load_ints(first_ + v * kLanes), position);
  }

  // Rows [first, count) of head_dim as floats: where they are, or widened to their place in buffer.
  // Returns row 0's place.
  const float* widen(const float* rows, int, int, float*) const { return rows; }
  const float* widen(const bfloat16* rows, int first, int count, float* buffer) const {
    const int64_t size = count * head_dim_;
    int64_t i = first * head_dim_;
    for (; i + kLanes <= size; i += kLanes) V::store(buffer + i, V::load(rows + i));
    if (i < size) V::store_first(buffer + i, V::load_first(rows + i, size - i), size - i);
    return buffer;
  }

  const TileView<T> view_;
  const int count_;
  const int64_t head_dim_;
  const float scale_;
  float* const query_;                       // [head_dim][kWidth]
  float* const sum_;                         // [head_dim][kWidth]
  float* const weight_;                      // [kBlock][kWidth]
  float* const widened_;                     // [kBlock][head_dim]
  int32_t first_[kWidth], limit_[kWidth];    // query i sees the positions [first, limit)
  typename V::Mask sees_[kBlock][kVectors];  // of the keys of this block that not all queries see
  F max_[kVectors], total_[kVectors], correction_[kVectors];
  int64_t start_ = 0;  // the block's first position
  int skip_ = 0;       // keys of the block before the first one that is read
  int num_keys_ = 0;   // keys of the block, the skipped ones included
};

}  // namespace pdrt
