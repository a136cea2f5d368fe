// Attention of few queries, as in decode: lanes are keys for the scores and dimensions for the
// sums.
//
// Each score and each sum is the same chain of operations as in attention_tile.h, so the bits are
// the same. Every key and value is read once for all queries of the tile, that is, once for the
// heads of a group. The ranges of positions can be computed apart from each other, by several
// threads, and joined after.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>

#include "attention_view.h"
#include "simd_lanes.h"

namespace pdrt {

template <typename D, int kQueries>
class AttentionFew {
  using V = typename D::V;
  using T = typename D::T;
  using F = typename V::Floats;
  static constexpr int kPack = D::kPack;
  static constexpr int kLanes = V::kLanes;
  static constexpr int kStep = D::kStep * kLanes;     // dimensions that are loaded together
  static constexpr int kLine = 64, kSecondLevel = 2;  // of a cache, in bytes; as GCC numbers them
  static_assert(kRun % kLanes == 0 && kQueries <= kMostFew);

 public:
  AttentionFew(const Attention& a, const Tile& tile, float* scratch)
      : view_(a, tile),
        count_(static_cast<int>(tile.count)),
        head_dim_(static_cast<int>(a.head_dim)),
        padded_((head_dim_ + kStep - 1) / kStep * kStep),
        scale_(a.scale * D::kExponents),
        query_(scratch),
        sum_(query_ + kQueries * padded_),
        result_(sum_ + kQueries * padded_) {
    for (int i = 0; i < kQueries; ++i) {
      first_[i] = view_.first(source(i));
      limit_[i] = view_.limit(source(i));
    }
  }

  void run() {
    begin();
    load();
    const int64_t first = first_[0], end = limit_[kQueries - 1];
    for (int64_t range = first / kRange * kRange; range < end; range += kRange) {
      attend(std::max(first, range), std::min(end, range + kRange));
      for (int i = 0; i < kQueries; ++i) fold(i, sum_ + i * padded_, max_[i], total_[i]);
    }
    store();
  }

  // The positions from `start` on, up to the end of their range: sums, then maxima, then totals.
  void range(int64_t start, float* state) {
    load();
    attend(start, std::min(limit_[kQueries - 1], start / kRange * kRange + kRange));
    std::memcpy(state, sum_, kQueries * padded_ * sizeof *sum_);
    std::copy_n(max_, kQueries, state + kQueries * padded_);
    std::copy_n(total_, kQueries, state + kQueries * (padded_ + 1));
  }

  void join(const float* states, int64_t num_ranges, int64_t apart) {
    begin();
    for (const float* state = states; state < states + num_ranges * apart; state += apart) {
      const float *max = state + kQueries * padded_, *total = max + kQueries;
      for (int i = 0; i < kQueries; ++i) fold(i, state + i * padded_, max[i], total[i]);
    }
    store();
  }

 private:
  // Where the tile has fewer than kQueries, its last one stands in for the rest.
  int source(int i) const { return std::min(i, count_ - 1); }

  void begin() {
    std::fill_n(result_, kQueries * padded_, 0.0f);
    std::fill_n(result_max_, kQueries, std::numeric_limits<float>::lowest());
    std::fill_n(result_total_, kQueries, 0.0f);
  }

  void load() {
    for (int i = 0; i < kQueries; ++i)
      for (int d = 0; d < head_dim_; d += kPack)
        query_[i * padded_ + d / kPack] = D::word(view_.query(source(i)) + d);
  }

  // max_, total_ and sum_ of the positions [first, end), which lie in one range.
  void attend(int64_t first, int64_t end) {
    std::fill_n(sum_, kQueries * padded_, 0.0f);
    std::fill_n(max_, kQueries, std::numeric_limits<float>::lowest());
    std::fill_n(total_, kQueries, 0.0f);
    for (int64_t run = first / kRun * kRun; run < first + kBlock; run += kRun) prefetch(run);
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
  }

  // weight_[i][j] = scale * query i . key j
  void scores() {
    int end;
    for (int j = from_[0]; j < num_keys_; j = end) {
      end = std::min(j / kLanes * kLanes + kLanes, num_keys_);
      if (j % kRun == 0) prefetch(start_ + j + kBlock);
      const T* keys = view_.keys(start_ + j);
      F acc[kQueries] = {};
      for (int d = 0; d < head_dim_; d += kLanes * kPack) multiply(keys + d, end - j, d, acc);
#pragma GCC unroll 8
      for (int i = 0; i < kQueries; ++i) V::store(score_[i] + j, acc[i] * V::set(scale_));
    }
  }

  // Keys and values of a run, a block before they are read: they lie anywhere, 2 KB here and 2 KB
  // there, which no hardware foresees. Into the second level, whose queue is the longer one: so a
  // core reads 19 GB/s of such pieces, with the first level 11 and without this 7.
  // Inlined, as GCC 12 drops calls of a function that does nothing else.
  inline __attribute__((always_inline)) void prefetch(int64_t position) const {
    if (position >= limit_[kQueries - 1]) return;
    const auto* keys = reinterpret_cast<const char*>(view_.keys(position));
    const auto* values = reinterpret_cast<const char*>(view_.values(position));
    const int64_t size = kRun * head_dim_ * sizeof(T);
    for (int64_t i = 0; i < size; i += kLine) __builtin_prefetch(keys + i, 0, kSecondLevel);
    for (int64_t i = 0; i < size; i += kLine) __builtin_prefetch(values + i, 0, kSecondLevel);
  }

  // Adds the products of up to kLanes words, beginning with that of dimension d, for up to kLanes
  // keys.
  void multiply(const T* keys, int count, int d, F (&acc)[kQueries]) const {
    const int width = std::min(kLanes, (head_dim_ - d) / kPack);
    F columns[kLanes];
    if (count == kLanes && width == kLanes) {
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; ++j) columns[j] = D::words(keys + j * head_dim_, kLanes);
    } else {
      for (int j = 0; j < kLanes; ++j)
        columns[j] = j < count ? D::words(keys + j * head_dim_, width) : V::set(0.0f);
    }
    V::transpose(columns);
    const float* query = query_ + d / kPack;
#pragma GCC unroll 16
    for (int c = 0; c < kLanes; ++c) {
      if (c >= width) break;
#pragma GCC unroll 8
      for (int i = 0; i < kQueries; ++i)
        acc[i] = D::dot(V::set(query[i * padded_ + c]), columns[c], acc[i]);
    }
  }

  // weight_[i] gets the words of exp(score - max), 0 where query i sees nothing; updates max_,
  // total_ and correction_.
  void softmax(int i) {
    correction_[i] = 1.0f;
    if (from_[i] == to_[i]) return;
    constexpr int kVectors = kBlock / kLanes;
    const F hidden = V::set(-std::numeric_limits<float>::infinity());
    F score[kVectors], max = V::set(max_[i]), sum = V::set(0.0f);
    for (int v = 0; v < kVectors; ++v) {
      const int from = std::clamp(from_[i] - v * kLanes, 0, kLanes);
      const int to = std::clamp(to_[i] - v * kLanes, 0, kLanes);
      const typename V::Mask seen = V::first(to) & ~V::first(from);
      score[v] = V::select(seen, V::load(score_[i] + v * kLanes), hidden);
      max = V::max(max, score[v]);
    }
    const float largest = over_lanes<V>(max, [](float x, float y) { return x > y ? x : y; });
    const F before = D::exp(V::set(max_[i]) - V::set(largest));
    for (int v = 0; v < kVectors; ++v) {
      const F weight = D::rounded(D::exp(score[v] - V::set(largest)));
      D::store_weights(weight_[i], v * kLanes, weight);
      sum = sum + weight;
    }
    correction_[i] = first_lane<V>(before);
    total_[i] =
        total_[i] * correction_[i] + over_lanes<V>(sum, [](float x, float y) { return x + y; });
    max_[i] = largest;
  }

  // sum_ = sum_ * correction_ + weights . values
  void values() {
    for (int run = from_[0] / kRun * kRun; run < num_keys_; run += kRun)
      runs_[run / kRun] = view_.values(start_ + run);
    for (int i = 0; i < kQueries; ++i)
      for (float* at = sum_ + i * padded_; at < sum_ + (i + 1) * padded_; at += kLanes)
        V::store(at, V::load(at) * V::set(correction_[i]));
    // Words that all queries see whole; where a window begins for some and not yet for others there
    // are none. Of the words before and after, each query takes what it sees.
    const bool together = from_[0] == from_[kQueries - 1];
    const int whole = (from_[0] + kPack - 1) / kPack;
    const int whole_end = together ? std::max(whole, to_[0] / kPack) : whole;
    one_by_one(from_[0] / kPack, whole);
    constexpr int kMost = (kLanes < 16 || kQueries > 4 ? 2 : 4) / D::kStep;
    int d = 0;
    for (; d + kMost * kStep <= head_dim_; d += kMost * kStep)
      value<kMost, true>(whole, whole_end, d);
    for (; d + kStep <= head_dim_; d += kStep) value<1, true>(whole, whole_end, d);
    if (d < head_dim_) value<1, false>(whole, whole_end, d);
    one_by_one(whole_end, (num_keys_ + kPack - 1) / kPack);
  }

  // Adds words to kSteps steps of dimensions from d on; if not whole, the head ends in that step.
  template <int kSteps, bool kWhole>
  void value(int word, int end_word, int d) {
    constexpr int kVectors = kSteps * D::kStep;
    const int width = kWhole ? kStep : head_dim_ - d;
    F acc[kQueries][kVectors], value[kVectors];
#pragma GCC unroll 8
    for (int i = 0; i < kQueries; ++i)
      for (int v = 0; v < kVectors; ++v) acc[i][v] = V::load(sum_ + i * padded_ + d + v * kLanes);
    for (; word < end_word; ++word) {
      for (int s = 0; s < kSteps; ++s) {
        const T* rows[kPack];
        int widths[kPack];
        for (int k = 0; k < kPack; ++k) {
          rows[k] = value_row(word * kPack + k) + d + s * kStep;
          widths[k] = width;
        }
        D::load_values(rows, widths, value + s * D::kStep);
      }
#pragma GCC unroll 8
      for (int i = 0; i < kQueries; ++i)
        for (int v = 0; v < kVectors; ++v)
          acc[i][v] = D::dot(V::set(weight_[i][word]), value[v], acc[i][v]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kQueries; ++i)
      for (int v = 0; v < kVectors; ++v) V::store(sum_ + i * padded_ + d + v * kLanes, acc[i][v]);
  }

  // Adds words, the positions in them that a query does not see being 0.
  void one_by_one(int word, int end_word) {
    for (; word < end_word; ++word)
      for (int i = 0; i < kQueries; ++i) {
        const int from = std::max(from_[i], word * kPack);
        const int to = std::min(to_[i], (word + 1) * kPack);
        if (from >= to) continue;
        for (int d = 0; d < head_dim_; d += kStep) {
          const T* rows[kPack];
          int widths[kPack];
          for (int k = 0; k < kPack; ++k) {
            const int j = word * kPack + k;
            rows[k] = value_row(j) + d;
            widths[k] = from <= j && j < to ? std::min(kStep, head_dim_ - d) : 0;
          }
          F value[D::kStep];
          D::load_values(rows, widths, value);
          float* sum = sum_ + i * padded_ + d;
          for (int v = 0; v < D::kStep; ++v, sum += kLanes)
            V::store(sum, D::dot(V::set(weight_[i][word]), value[v], V::load(sum)));
        }
      }
  }

  // Unsigned, so that the division is a shift.
  const T* value_row(unsigned j) const { return runs_[j / kRun] + j % kRun * head_dim_; }

  // Adds what a range left for query i to its result, if the query saw any of it.
  void fold(int i, const float* sum, float range_max, float range_total) {
    if (range_total == 0.0f) return;
    const F max = V::max(V::set(result_max_[i]), V::set(range_max));
    const F before = D::exp(V::set(result_max_[i]) - max), now = D::exp(V::set(range_max) - max);
    const auto folded = [&](F all, F range) { return V::fma(range, now, all * before); };
    result_max_[i] = first_lane<V>(max);
    result_total_[i] = first_lane<V>(folded(V::set(result_total_[i]), V::set(range_total)));
    float* result = result_ + i * padded_;
    for (int d = 0; d < padded_; d += kLanes)
      V::store(result + d, folded(V::load(result + d), V::load(sum + d)));
  }

  void store() const {
    for (int i = 0; i < count_; ++i) {
      const F share = V::set(1.0f) / V::set(result_total_[i]);
      for (int d = 0; d < head_dim_; d += kStep) {
        F out[D::kStep];
        for (int v = 0; v < D::kStep; ++v)
          out[v] = V::load(result_ + i * padded_ + d + v * kLanes) * share;
        D::store_result(out, view_.out(i) + d, std::min(kStep, head_dim_ - d));
      }
    }
  }

  const TileView<T> view_;
  const int count_, head_dim_;
  const int padded_;  // head_dim, up to whole steps
  const float scale_;
  float* const query_;                                  // words [kQueries][padded_]
  float* const sum_;                                    // [kQueries][padded_], in D's order
  float* const result_;                                 // [kQueries][padded_], in D's order
  alignas(64) float score_[kQueries][kBlock + kLanes];  // what begins late is stored whole
  alignas(64) float weight_[kQueries][kBlock];          // words [kBlock / kPack]
  int64_t first_[kQueries], limit_[kQueries];           // query i sees the positions [first, limit)
  int from_[kQueries], to_[kQueries];                   // and the keys [from, to) of this block
  float max_[kQueries], total_[kQueries], correction_[kQueries];  // of this range so far
  float result_max_[kQueries], result_total_[kQueries];           // of the ranges before
  const T* runs_[kBlock / kRun];                                  // values of this block
  int64_t start_ = 0;                                             // the block's first position
  int num_keys_ = 0;
};

}  // namespace pdrt
