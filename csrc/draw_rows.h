// Chooses one row's token, over a vector type. Nothing but a few likely tokens is ever sorted.
//
//     weight_i = exp((x_i - max) / temperature), 0 under min_p
//     top_k: a logit among the k largest is no smaller than the k-th largest of the blocks' maxima,
//            so only blocks with such a maximum are looked into
//     top_p: a token under (1 - p) / n of the sum is not needed; among the others, that at which
//            the sum of the likeliest reaches p is found by parting them around pivots
//     the token is that at which the sum of what was kept, in the order of ids, exceeds random
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "draw.h"
#include "philox.h"
#include "simd_math.h"

namespace pdrt {

template <typename V>
class DrawToken {
  using F = typename V::Floats;
  using Entry = std::pair<float, int32_t>;
  static constexpr int kLanes = V::kLanes;
  static constexpr int64_t kBlock = 64;      // logits with one maximum
  static constexpr int64_t kSumBlock = 512;  // weights with one sum
  static constexpr int kChains = 8;          // sums that go on side by side

 public:
  static Drawn draw(const DrawRow& row, const float* logits, int64_t size, DrawScratch& scratch) {
    DrawToken own(logits, size, scratch);
    const float largest = own.find_largest();
    const double total = std::isfinite(largest) ? own.total_below(largest) : NAN;
    if (!std::isfinite(total)) return {own.first_of_worst(), NAN, NAN};
    const double log_total = largest + std::log(total);
    int32_t token;
    if (row.choice == 0) {
      token = own.choose(row, largest);
    } else {
      DrawToken other(reinterpret_cast<const float*>(row.choice), size, scratch);
      token = other.choose(row, other.find_largest());
    }
    return {token, static_cast<float>(logits[token] - log_total), log_total};
  }

 private:
  DrawToken(const float* x, int64_t size, DrawScratch& scratch)
      : x_(x), size_(size), scratch_(scratch) {}

  // Calls body(first, end) for each block of `width` indices.
  template <typename Body>
  void blocks(int64_t width, Body body) const {
    for (int64_t first = 0; first < size_; first += width)
      body(first, std::min(first + width, size_));
  }
  // The vector at i, `other` in lanes past the end.
  F load(int64_t i, int64_t end, float other) const {
    if (i + kLanes <= end) return V::load(x_ + i);
    const int count = static_cast<int>(end - i);
    return V::select(V::first(count), V::load_first(x_ + i, count), V::set(other));
  }
  static float largest_lane(F x) {
    float lanes[kLanes];
    V::store(lanes, x);
    return *std::max_element(lanes, lanes + kLanes);
  }

  // The largest that is a number, and that of each block.
  float find_largest() {
    constexpr float kLeast = -std::numeric_limits<float>::infinity();
    scratch_.maxima.clear();
    float largest = kLeast;
    blocks(kBlock, [&](int64_t first, int64_t end) {
      F max = V::set(kLeast);
      for (int64_t i = first; i < end; i += kLanes) max = V::max(load(i, end, kLeast), max);
      scratch_.maxima.push_back(largest_lane(max));
      largest = std::max(largest, scratch_.maxima.back());
    });
    return largest;
  }

  // Sum of exp(x - largest); NaN if one of them is.
  double total_below(float largest) const {
    double total = 0.0;
    blocks(kSumBlock, [&](int64_t first, int64_t end) {
      F sum = V::set(0.0f);
      for (int64_t i = first; i < end; i += kLanes)
        sum = sum + exp<V>(load(i, end, -std::numeric_limits<float>::infinity()) - V::set(largest));
      float lanes[kLanes];
      V::store(lanes, sum);
      for (float lane : lanes) total += lane;
    });
    return total;
  }

  // The first NaN, or else the first of the largest.
  int32_t first_of_worst() const {
    const float* nan = std::find_if(x_, x_ + size_, [](float x) { return std::isnan(x); });
    if (nan != x_ + size_) return static_cast<int32_t>(nan - x_);
    return static_cast<int32_t>(std::max_element(x_, x_ + size_) - x_);
  }

  int32_t choose(const DrawRow& row, float largest) {
    if (row.temperature == 0.0f || !std::isfinite(largest)) return first_of(largest);
    weigh(row, largest);
    const bool has_top_k = row.top_k > 0 && row.top_k < size_, has_top_p = row.top_p < 1.0;
    const double random = philox_uniform(row.seed, row.position);
    if (!has_top_k && !has_top_p) return pick(random);
    double total;
    if (has_top_k) {
      keep_top_k(row.top_k);
      total = sum_of(scratch_.kept.begin(), scratch_.kept.end());
    } else {
      total = sum_weights();
      keep_likely(row.top_p, total);
    }
    if (has_top_p) keep_fewest(row.top_p * total);
    return pick_kept(random);
  }

  int32_t first_of(float largest) const {
    const auto& maxima = scratch_.maxima;
    const auto block = std::find(maxima.begin(), maxima.end(), largest) - maxima.begin();
    return static_cast<int32_t>(std::find(x_ + block * kBlock, x_ + size_, largest) - x_);
  }

  void weigh(const DrawRow& row, float largest) {
    scratch_.weights.resize(size_);
    const F least = V::set(row.log_min_p), zero = V::set(0.0f);
    blocks(kLanes, [&](int64_t i, int64_t end) {
      const F scaled = V::div(load(i, end, largest) - V::set(largest), V::set(row.temperature));
      const typename V::Mask below = V::differs(V::max(scaled, least), scaled);
      const F weight = V::select(below, zero, exp<V>(scaled));
      V::store_first(scratch_.weights.data() + i, weight, static_cast<int>(end - i));
    });
  }

  // Larger first, the lower id among equals.
  static bool likelier(const Entry& x, const Entry& y) {
    return x.first > y.first || (x.first == y.first && x.second < y.second);
  }
  // Keeps of `kept` what `wanted` says, without a branch that nobody could foresee.
  template <typename Wanted>
  void keep_if(Wanted wanted) {
    auto& kept = scratch_.kept;
    size_t count = 0;
    for (size_t i = 0; i < kept.size(); ++i) {
      kept[count] = kept[i];
      count += wanted(kept[count]);
    }
    kept.resize(count);
  }
  void keep_down_to(const Entry& border) {
    keep_if([&](const Entry& entry) { return !likelier(border, entry); });
  }

  void keep_top_k(int64_t k) {
    auto& [maxima, bounds, weights, sums, kept, unsorted] = scratch_;
    float bound = -std::numeric_limits<float>::infinity();
    if (k < static_cast<int64_t>(maxima.size())) {
      bounds = maxima;
      std::nth_element(bounds.begin(), bounds.begin() + k - 1, bounds.end(), std::greater<>());
      bound = bounds[k - 1];
    }
    kept.clear();
    blocks(kBlock, [&](int64_t first, int64_t end) {
      if (maxima[first / kBlock] < bound) return;
      for (int64_t i = first; i < end; ++i)
        if (x_[i] >= bound) kept.emplace_back(x_[i], static_cast<int32_t>(i));
    });
    unsorted = kept;
    std::nth_element(unsorted.begin(), unsorted.begin() + k - 1, unsorted.end(), likelier);
    keep_down_to(unsorted[k - 1]);
    for (Entry& entry : kept) entry.first = weights[entry.second];
  }

  // All that may be among the fewest that reach p of the sum.
  void keep_likely(double p, double total) {
    const auto bound = static_cast<float>((1.0 - p) / static_cast<double>(size_) * total);
    scratch_.kept.resize(size_);
    for (int64_t i = 0; i < size_; ++i)
      scratch_.kept[i] = {scratch_.weights[i], static_cast<int32_t>(i)};
    keep_if([&](const Entry& entry) { return entry.first >= bound; });
  }

  // Of those kept, the fewest that add up to `needed`; all, if rounding lets none do so.
  void keep_fewest(double needed) {
    auto& unsorted = scratch_.unsorted;
    unsorted = scratch_.kept;
    auto begin = unsorted.begin(), end = unsorted.end();
    while (begin != end) {
      std::iter_swap(begin, begin + (end - begin) / 2);
      const Entry pivot = *begin;
      auto rest = begin + 1;  // [begin + 1, rest) are likelier than the pivot
      double sum = 0.0;
      for (auto it = rest; it != end; ++it) {
        const Entry entry = *it;
        const bool before = likelier(entry, pivot);
        *it = *rest;
        *rest = entry;
        rest += before;
        sum += before ? entry.first : 0.0f;
      }
      if (sum >= needed) {
        ++begin;
        end = rest;
      } else if (sum + pivot.first >= needed) {
        return keep_down_to(pivot);
      } else {
        needed -= sum + pivot.first;
        begin = rest;
      }
    }
  }

  template <typename Iterator>
  static double sum_of(Iterator begin, Iterator end) {
    double sum = 0.0;
    for (; begin != end; ++begin) sum += begin->first;
    return sum;
  }

  // The sum of all weights; leaves those of blocks in sums.
  double sum_weights() {
    double total = 0.0;
    scratch_.sums.clear();
    blocks(kSumBlock, [&](int64_t first, int64_t end) {
      double parts[kChains] = {}, sum = 0.0;
      const float* weights = scratch_.weights.data();
      int64_t i = first;
      for (; i + kChains <= end; i += kChains)
        for (int c = 0; c < kChains; ++c) parts[c] += weights[i + c];
      for (; i < end; ++i) sum += weights[i];
      for (double part : parts) sum += part;
      scratch_.sums.push_back(sum);
      total += sum;
    });
    return total;
  }

  // Where the sum of all weights, in the order of ids, exceeds a part of it: in which block first.
  int32_t pick(double random) {
    double left = random * sum_weights();
    size_t block = 0;
    for (; block + 1 < scratch_.sums.size() && scratch_.sums[block] <= left; ++block)
      left -= scratch_.sums[block];
    const int64_t first = static_cast<int64_t>(block) * kSumBlock;
    int64_t last = first;  // that has a weight, should rounding let none exceed it
    for (int64_t i = first; i < std::min(first + kSumBlock, size_); ++i) {
      const float weight = scratch_.weights[i];
      if (weight > left) return static_cast<int32_t>(i);
      if (weight > 0.0f) last = i;
      left -= weight;
    }
    return static_cast<int32_t>(last);
  }

  int32_t pick_kept(double random) const {
    const auto& kept = scratch_.kept;
    double left = random * sum_of(kept.begin(), kept.end());
    int32_t last = kept.front().second;
    for (const auto& [weight, token] : kept) {
      if (weight > left) return token;
      if (weight > 0.0f) last = token;
      left -= weight;
    }
    return last;
  }

  const float* const x_;
  const int64_t size_;
  DrawScratch& scratch_;
};

}  // namespace pdrt
