// Attention of many queries at once, one query in each lane.
//
// Words of keys and values (attention_singles.h) are broadcast, so nothing is transposed and any
// head_dim works. Each lane computes as if it were alone:
//
//     for each range of 512 positions, for each block of 64 in it
//         s_j = scale * (q_0 k_j0 + q_1 k_j1 + ...)       one chain of multiply-adds over head_dim
//         m'  = max(m, s_j...), correction = exp(m - m')
//         p_j = exp(s_j - m')
//         l   = l * correction + (p_0 + p_1 + ...)        a tree, see weigh()
//         o_d = o_d * correction + p_0 v_0d + p_1 v_1d + ...  one chain over positions
//     M, L, O of all ranges so far = those before and m, l, o, each rescaled to the larger maximum
//     out_d = O_d (1 / L)
//
// where exp is D's: of any base, in whose unit scores are then counted.
//
// A position that a lane may not see changes none of its bits: its p is exactly 0, its product
// is not added, a block without any leaves m, l and o alone (a correction of 1 is exact; so that
// this holds also before the first one seen, m begins as the least float, not as -infinity), and a
// range without any leaves M, L and O. So a query's result depends on neither its neighbours nor
// the tile. attention_few.h gives the same bits with the work laid out for few queries.
//
// Positions before the first one that any lane sees, as with a window, are neither read nor
// computed.
//
// Every loop over sums in registers says that it is to be unrolled: GCC does so on its own only
// after it has given them memory.
#pragma once

#include <algorithm>
#include <limits>

#include "attention_view.h"

namespace pdrt {

template <typename D, int kVectors>
class AttentionTile {
  using V = typename D::V;
  using T = typename D::T;
  using F = typename V::Floats;
  static constexpr int kPack = D::kPack;
  static constexpr int kLanes = V::kLanes;
  static constexpr int kWidth = kVectors * kLanes;  // queries
  static constexpr int kChunk = 8;                  // keys, or dimensions, in registers at once
  static_assert(kWidth <= kWidestTile);

 public:
  AttentionTile(const Attention& a, const Tile& tile, float* scratch)
      : view_(a, tile),
        count_(static_cast<int>(tile.count)),
        head_dim_(a.head_dim),
        scale_(a.scale * D::kExponents),
        query_(scratch),
        sum_(query_ + kWidth * head_dim_),
        result_(sum_ + kWidth * head_dim_),
        weight_(result_ + kWidth * head_dim_),
        widened_(weight_ + kWidth * kBlock) {}

  void run() {
    load();
    const int64_t first = view_.first(0), end = view_.limit(count_ - 1);
    for (int64_t range = first / kRange * kRange; range < end; range += kRange) {
      attend(std::max(first, range), std::min(end, range + kRange));
      fold();
    }
    store();
  }

 private:
  // Queries are transposed to words [head_dim / kPack][kWidth]; lanes without one see what the last
  // one sees.
  void load() {
    const T* queries[kWidth];
    for (int i = 0; i < kWidth; ++i) {
      const int source = std::min(i, count_ - 1);
      queries[i] = view_.query(source);
      first_[i] = static_cast<int32_t>(view_.first(source));
      limit_[i] = static_cast<int32_t>(view_.limit(source));
    }
    for (int v = 0; v < kVectors; ++v)
      for (int64_t word = 0; word < head_dim_ / kPack; word += kLanes) {
        const int n = static_cast<int>(std::min<int64_t>(kLanes, head_dim_ / kPack - word));
        F rows[kLanes];
        for (int i = 0; i < kLanes; ++i)
          rows[i] = D::words(queries[v * kLanes + i] + word * kPack, n);
        V::transpose(rows);
        for (int c = 0; c < n; ++c) V::store(query_ + (word + c) * kWidth + v * kLanes, rows[c]);
      }
    std::fill_n(result_, kWidth * head_dim_, 0.0f);
    for (int v = 0; v < kVectors; ++v) {
      result_max_[v] = V::set(std::numeric_limits<float>::lowest());
      result_total_[v] = V::set(0.0f);
    }
  }

  // max_, total_ and sum_ of the positions [first, end), which lie in one range.
  void attend(int64_t first, int64_t end) {
    std::fill_n(sum_, kWidth * head_dim_, 0.0f);
    for (int v = 0; v < kVectors; ++v) {
      max_[v] = V::set(std::numeric_limits<float>::lowest());
      total_[v] = V::set(0.0f);
    }
    for (start_ = first / kBlock * kBlock; start_ < end; start_ += kBlock) {
      skip_ = static_cast<int>(std::max<int64_t>(first - start_, 0));
      num_keys_ = static_cast<int>(std::min<int64_t>(kBlock, end - start_));
      scores();
      softmax();
      values();
    }
  }

  // weight_[j] = scale * query . key j
  void scores() {
    for (int run = first_run(); run < num_keys_; run += kRun) {
      const int count = std::min(kRun, num_keys_ - run);
      int j = std::max(skip_ - run, 0);
      const auto* keys = D::keys(view_.keys(start_ + run), j, count, head_dim_, widened_);
      for (; j + kChunk <= count; j += kChunk)
        score<kChunk>(keys + j * head_dim_, weight_ + (run + j) * kWidth);
      for (; j + kChunk / 2 <= count; j += kChunk / 2)
        score<kChunk / 2>(keys + j * head_dim_, weight_ + (run + j) * kWidth);
      for (; j < count; ++j) score<1>(keys + j * head_dim_, weight_ + (run + j) * kWidth);
    }
  }

  template <int kKeys, typename Key>
  void score(const Key* keys, float* out) const {
    F acc[kKeys][kVectors] = {};
    for (int64_t word = 0; word < head_dim_ / kPack; ++word) {
      F query[kVectors];
      for (int v = 0; v < kVectors; ++v) query[v] = V::load(query_ + word * kWidth + v * kLanes);
#pragma GCC unroll 8
      for (int j = 0; j < kKeys; ++j) {
        const F key = D::key(keys + j * head_dim_, word);
        for (int v = 0; v < kVectors; ++v) acc[j][v] = D::dot(query[v], key, acc[j][v]);
      }
    }
#pragma GCC unroll 8
    for (int j = 0; j < kKeys; ++j)
      for (int v = 0; v < kVectors; ++v)
        V::store(out + j * kWidth + v * kLanes, acc[j][v] * V::set(scale_));
  }

  // weight_ from scores to words of exp(score - max); updates max_, total_ and correction_.
  void softmax() {
    mask();
    F max[kVectors];
    for (int v = 0; v < kVectors; ++v) max[v] = max_[v];
    for (int j = skip_; j < num_keys_; ++j)
      for (int v = 0; v < kVectors; ++v) max[v] = V::max(max[v], score_or_word(j, v));
    for (int v = 0; v < kVectors; ++v) {
      correction_[v] = D::exp(max_[v] - max[v]);
      max_[v] = max[v];
      const Weights sums = weigh<1>(v, 0);
      F sum = sums.of[0];
      if constexpr (kPack == 2) sum = sum + sums.of[1];
      total_[v] = total_[v] * correction_[v] + sum;
    }
  }

  struct Weights {
    F of[kPack];  // by position in a word
  };

  // Words first, first + kApart, ... from scores to weights; returns the weights' sums. Those
  // kLanes apart are summed from left to right, then halves of what is left: as lanes of keys are
  // summed in attention_few.h. A position that is not seen is a 0.
  template <int kApart>
  Weights weigh(int v, int first) {
    Weights sums = {};
    if constexpr (kApart * kPack < kLanes) {
      const Weights left = weigh<2 * kApart>(v, first),
                    right = weigh<2 * kApart>(v, first + kApart);
      for (int k = 0; k < kPack; ++k) sums.of[k] = left.of[k] + right.of[k];
    } else {
      for (int word = first; word < end_word(); word += kApart) {
        if (word < first_word()) continue;
        F weights[kPack];
        for (int k = 0; k < kPack; ++k)
          weights[k] = D::exp(score_or_word(word * kPack + k, v) - max_[v]);
        const F joined = D::join(weights);
        V::store(weight_ + word * kPack * kWidth + v * kLanes, joined);
        for (int k = 0; k < kPack; ++k) sums.of[k] = sums.of[k] + D::part(joined, k);
      }
    }
    return sums;
  }

  // Scores of what a lane does not see are -infinity. That includes positions that no lane sees but
  // that share a word with one that is seen.
  void mask() {
    const F hidden = V::set(-std::numeric_limits<float>::infinity());
    const auto hide = [&](int j) {
      for (int v = 0; v < kVectors; ++v) {
        sees_[j][v] = sees(static_cast<int32_t>(start_ + j), v);
        V::store(weight_ + j * kWidth + v * kLanes,
                 V::select(sees_[j][v], score_or_word(j, v), hidden));
      }
    };
    for (int j = first_word() * kPack; j < skip_; ++j) hide(j);
    for (int j = seen_by_all() / kPack * kPack; j < end_word() * kPack; ++j) hide(j);
  }

  // sum_ = sum_ * correction_ + weights . values
  void values() {
    const float* runs[kBlock / kRun];
    for (int run = first_run(); run < num_keys_; run += kRun) {
      float* buffer = widened_ + run / kPack * head_dim_;
      const int count = std::min(kRun, num_keys_ - run);
      const int first = std::max(skip_ - run, 0);
      runs[run / kRun] = D::values(view_.values(start_ + run), first, count, head_dim_, buffer);
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
#pragma GCC unroll 8
    for (int i = 0; i < kDims; ++i)
      for (int v = 0; v < kVectors; ++v)
        acc[i][v] = V::load(sum + i * kWidth + v * kLanes) * correction_[v];
    constexpr unsigned kWords = kRun / kPack;  // unsigned, so that the division is a shift
    const auto row = [&](unsigned word) {
      return runs[word / kWords] + word % kWords * head_dim_ + d;
    };
    const int seen = seen_by_all() / kPack;
    for (int word = first_word(); word < seen; ++word) {
#pragma GCC unroll 8
      for (int i = 0; i < kDims; ++i)
        for (int v = 0; v < kVectors; ++v)
          acc[i][v] = D::dot(weights_of(word, v), V::set(row(word)[i]), acc[i][v]);
    }
    for (int word = seen; word < end_word(); ++word) {
      for (int v = 0; v < kVectors; ++v) {
        const typename D::Seen sees = seen_word(word, v);
#pragma GCC unroll 8
        for (int i = 0; i < kDims; ++i)
          acc[i][v] = D::dot_where(sees, weights_of(word, v), V::set(row(word)[i]), acc[i][v]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kDims; ++i)
      for (int v = 0; v < kVectors; ++v) V::store(sum + i * kWidth + v * kLanes, acc[i][v]);
  }

  // Adds the range to the result, in the lanes that saw any of it.
  void fold() {
    for (int v = 0; v < kVectors; ++v) {
      const F max = V::max(result_max_[v], max_[v]), zero = V::set(0.0f);
      const F before = D::exp(result_max_[v] - max), now = D::exp(max_[v] - max);
      const typename V::Mask any = V::differs(total_[v], zero);
      const auto folded = [&](F all, F range) {
        return V::select(any, V::fma(range, now, all * before), all);
      };
      result_max_[v] = max;
      result_total_[v] = folded(result_total_[v], total_[v]);
      for (int64_t i = v * kLanes; i < head_dim_ * kWidth; i += kWidth)
        V::store(result_ + i, folded(V::load(result_ + i), V::load(sum_ + i)));
    }
  }

  void store() {
    T* out[kWidth];
    for (int i = 0; i < count_; ++i) out[i] = view_.out(i);
    for (int v = 0; v < kVectors; ++v) {
      const F share = V::set(1.0f) / result_total_[v];
      for (int64_t d = 0; d < head_dim_; d += kLanes) {
        F rows[kLanes];  // those from head_dim on are not the result's, and not stored
#pragma GCC unroll 16
        for (int c = 0; c < kLanes; ++c)
          rows[c] = V::load(result_ + (d + c) * kWidth + v * kLanes) * share;
        V::transpose(rows);
        const int n = static_cast<int>(std::min<int64_t>(kLanes, head_dim_ - d));
        for (int i = v * kLanes; i < std::min(count_, (v + 1) * kLanes); ++i)
          n == kLanes ? V::store(out[i] + d, rows[i - v * kLanes])
                      : V::store_first(out[i] + d, rows[i - v * kLanes], n);
      }
    }
  }

  // Scores of key j, or, where j begins a word and weigh() was there, the word of its weights.
  F score_or_word(int j, int v) const { return V::load(weight_ + j * kWidth + v * kLanes); }
  F weights_of(int word, int v) const { return score_or_word(word * kPack, v); }

  // The run of the first key that is read.
  int first_run() const { return skip_ / kRun * kRun; }
  // Words that hold the keys [skip_, num_keys_).
  int first_word() const { return skip_ / kPack; }
  int end_word() const { return (num_keys_ + kPack - 1) / kPack; }

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
  typename D::Seen seen_word(int word, int v) const {
    if constexpr (kPack == 2)
      return D::seen(sees_[2 * word][v], sees_[2 * word + 1][v]);
    else
      return D::seen(sees_[word][v]);
  }

  const TileView<T> view_;
  const int count_;
  const int64_t head_dim_;
  const float scale_;
  float* const query_;    // [head_dim / kPack][kWidth]
  float* const sum_;      // [head_dim][kWidth]
  float* const result_;   // [head_dim][kWidth]
  float* const weight_;   // [kBlock][kWidth]: scores, then words of weights kPack apart
  float* const widened_;  // [kBlock][head_dim]
  int32_t first_[kWidth], limit_[kWidth];    // query i sees the positions [first, limit)
  typename V::Mask sees_[kBlock][kVectors];  // of the keys of this block that not all queries see
  F max_[kVectors], total_[kVectors], correction_[kVectors];  // of this range so far
  F result_max_[kVectors], result_total_[kVectors];           // of the ranges before
  int64_t start_ = 0;                                         // the block's first position
  int skip_ = 0;      // keys of the block before the first one that is read
  int num_keys_ = 0;  // keys of the block, the skipped ones included
};

}  // namespace pdrt
