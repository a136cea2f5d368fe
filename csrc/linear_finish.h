// What follows a product, on the tile's sums in float32: bias, activation, residual, one rounding.
#pragma once

#include <algorithm>

#include "bfloat16.h"
#include "cpu_linear.h"
#include "simd_math.h"

namespace pdrt {

template <typename V, typename T, typename Out>
class LinearFinish {
  using F = typename V::Floats;
  using Function = F (*)(F);
  static constexpr int kLanes = V::kLanes;

 public:
  LinearFinish(const Linear& linear, int64_t panel)
      : linear_(linear), panel_(panel), size_(linear.out_size()) {}

  // sums: [num_rows][kPanel], of the rows from `row` on.
  void run(const float* sums, int64_t row, int num_rows) const {
    switch (linear_.act) {
      case Act::kNone:
        return linear_.shape.gated ? gated<same>(sums, row, num_rows)
                                   : plain<same>(sums, row, num_rows);
      case Act::kSilu:
        return linear_.shape.gated ? gated<silu<V>>(sums, row, num_rows)
                                   : plain<silu<V>>(sums, row, num_rows);
      case Act::kGeluTanh:
        return linear_.shape.gated ? gated<gelu_tanh<V>>(sums, row, num_rows)
                                   : plain<gelu_tanh<V>>(sums, row, num_rows);
      case Act::kGelu:
        return linear_.shape.gated ? gated<gelu<V>>(sums, row, num_rows)
                                   : plain<gelu<V>>(sums, row, num_rows);
    }
  }

 private:
  static F same(F x) { return x; }

  template <Function kFunction>
  void plain(const float* sums, int64_t row, int num_rows) const {
    const int64_t first = panel_ * kPanel;
    const int count = static_cast<int>(std::min<int64_t>(kPanel, size_ - first));
    for (int r = 0; r < num_rows; ++r, sums += kPanel)
      for (int i = 0; i < count; i += kLanes) {
        const int n = std::min(kLanes, count - i);
        const F x = with_bias(V::load(sums + i), first + i, n);
        store((row + r) * size_ + first + i, kFunction(x), n);
      }
  }

  template <Function kFunction>
  void gated(const float* sums, int64_t row, int num_rows) const {
    constexpr int kHalf = kPanel / 2;
    const int64_t first = panel_ * kHalf;
    const int count = static_cast<int>(std::min<int64_t>(kHalf, size_ - first));
    for (int r = 0; r < num_rows; ++r, sums += kPanel)
      for (int i = 0; i < count; i += kLanes) {
        const int n = std::min(kLanes, count - i);
        const F gate = with_bias(V::load(sums + i), first + i, n);
        const F up = with_bias(V::load(sums + kHalf + i), size_ + first + i, n);
        store((row + r) * size_ + first + i, kFunction(gate) * up, n);
      }
  }

  F with_bias(F x, int64_t column, int n) const {
    if (linear_.bias == nullptr) return x;
    return x + load(static_cast<const T*>(linear_.bias) + column, n);
  }

  void store(int64_t at, F x, int n) const {
    if (linear_.residual) x = load(static_cast<const Out*>(linear_.residual) + at, n) + x;
    Out* out = static_cast<Out*>(linear_.out) + at;
    n == kLanes ? V::store(out, x) : V::store_first(out, x, n);
  }

  template <typename U>
  static F load(const U* p, int n) {
    return n == kLanes ? V::load(p) : V::load_first(p, n);
  }

  const Linear& linear_;
  const int64_t panel_, size_;
};

}  // namespace pdrt
