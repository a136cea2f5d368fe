// A block of a product: tiles of a few rows by one panel, over a vector type and a dtype.
//
// Each sum is one chain of multiply-adds over the inputs in their order, in a register from the
// first input to the last, whatever the tile; so a row's bits depend on no other row.
//
// With few rows the weights are read once from memory, which is all that takes time: the panel is
// fetched ahead by software, since a hardware prefetcher stops at every 4 KB. With many rows the
// panel stays in the cache while all rows of the block pass over it.
#pragma once

#include <algorithm>
#include <type_traits>

#include "bfloat16.h"
#include "cpu_linear.h"
#include "linear_finish.h"

namespace pdrt {

constexpr int kAhead = 4096;  // bytes between what is multiplied and what is fetched

// Products over widened bfloat16 or float32, for any vector type.
template <typename V, typename T>
struct WideProduct {
  using X = float;                                       // dtype of the rows that run() takes
  static constexpr int kRows = V::kLanes == 16 ? 8 : 4;  // so that the sums stay in registers
  static constexpr int kVectors = 2;
  static constexpr int kColumns = kVectors * V::kLanes;

  static const float* rows(const Linear& linear, const LinearBlock& block, float* scratch) {
    const int64_t size = linear.shape.num_inputs, first = block.first_row * size;
    const T* x = static_cast<const T*>(linear.x) + first;
    if constexpr (std::is_same_v<T, float>) return x;
    const int64_t count = block.end_row * size - first;
    int64_t i = 0;
    for (; i + V::kLanes <= count; i += V::kLanes) V::store(scratch + i, V::load(x + i));
    for (; i < count; ++i) scratch[i] = to_float(x[i]);
    return scratch;
  }

  // sums[r][c] = x[r] . output c of the panel
  template <int kCount>
  static void run(const float* x, int64_t size, const void* panel, float* sums) {
    for (int c = 0; c < kPanel; c += kColumns)
      columns<kCount>(x, size, static_cast<const char*>(panel) + c * 4, sums + c);
  }

 private:
  using F = typename V::Floats;

  template <int kCount>
  static void columns(const float* x, int64_t size, const char* panel, float* sums) {
    F acc[kCount][kVectors] = {};
    if constexpr (std::is_same_v<T, float>) {
      for (int64_t k = 0; k < size; ++k, panel += kPanel * 4) {
        for (int at = 0; at < kColumns * 4; at += 64) __builtin_prefetch(panel + kAhead + at);
        F weight[kVectors];
        for (int v = 0; v < kVectors; ++v)
          weight[v] = V::load(reinterpret_cast<const float*>(panel) + v * V::kLanes);
        add<kCount>(x + k, size, weight, acc);
      }
    } else {
      for (int64_t k = 0; k < size; k += 2, panel += kPanel * 4) {
        for (int at = 0; at < kColumns * 4; at += 64) __builtin_prefetch(panel + kAhead + at);
        F even[kVectors], odd[kVectors];
        for (int v = 0; v < kVectors; ++v)
          V::load_pairs(reinterpret_cast<const bfloat16*>(panel) + v * 2 * V::kLanes, even[v],
                        odd[v]);
        add<kCount>(x + k, size, even, acc);
        if (k + 1 < size) add<kCount>(x + k + 1, size, odd, acc);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kCount; ++r)
      for (int v = 0; v < kVectors; ++v) V::store(sums + r * kPanel + v * V::kLanes, acc[r][v]);
  }

  // acc += the input at x of each row * weight
  template <int kCount>
  static inline __attribute__((always_inline)) void add(const float* x, int64_t size,
                                                        const F (&weight)[kVectors],
                                                        F (&acc)[kCount][kVectors]) {
#pragma GCC unroll 8
    for (int r = 0; r < kCount; ++r) {
      const F input = V::set(x[r * size]);
      for (int v = 0; v < kVectors; ++v) acc[r][v] = V::fma(input, weight[v], acc[r][v]);
    }
  }
};

template <typename V, typename T, typename Product>
class LinearTiles {
 public:
  static void run(const Linear& linear, const LinearBlock& block, float* scratch) {
    linear.float_out ? all<float>(linear, block, scratch) : all<T>(linear, block, scratch);
  }

 private:
  static constexpr int kRows = Product::kRows;

  template <typename Out>
  static void all(const Linear& linear, const LinearBlock& block, float* scratch) {
    const auto* x = Product::rows(linear, block, scratch);
    const char* weight = static_cast<const char*>(linear.weight);
    for (int64_t panel = block.first_panel; panel < block.end_panel; ++panel)
      down<Out>(linear, block, x, weight + panel * linear.shape.panel_bytes(), panel);
  }

  // All rows of the block by one panel. Tiles are as equal as they can be: one of 8 rows and one of
  // 1 take longer than two of 4 and 5, as the single row's sums wait for themselves.
  template <typename Out>
  static void down(const Linear& linear, const LinearBlock& block, const typename Product::X* x,
                   const char* panel, int64_t panel_index) {
    const LinearFinish<V, T, Out> finish(linear, panel_index);
    const int64_t size = linear.shape.num_inputs;
    alignas(64) float sums[kRows * kPanel];
    int64_t left = block.end_row - block.first_row, tiles = (left + kRows - 1) / kRows;
    for (int64_t row = block.first_row; left > 0; --tiles) {
      const int count = static_cast<int>((left + tiles - 1) / tiles);
      product(count, x + (row - block.first_row) * size, size, panel, sums);
      finish.run(sums, row, count);
      row += count, left -= count;
    }
  }

  static void product(int count, const typename Product::X* x, int64_t size, const char* panel,
                      float* sums) {
    switch (count) {
      case 1:
        return Product::template run<1>(x, size, panel, sums);
      case 2:
        return Product::template run<2>(x, size, panel, sums);
      case 3:
        return Product::template run<3>(x, size, panel, sums);
      case 4:
        return Product::template run<4>(x, size, panel, sums);
    }
    if constexpr (kRows == 8) switch (count) {
        case 5:
          return Product::template run<5>(x, size, panel, sums);
        case 6:
          return Product::template run<6>(x, size, panel, sums);
        case 7:
          return Product::template run<7>(x, size, panel, sums);
        case 8:
          return Product::template run<8>(x, size, panel, sums);
      }
  }
};

template <typename V>
void run_linear(const Linear& linear, const LinearBlock& block, float* scratch) {
  linear.shape.is_bfloat16
      ? LinearTiles<V, bfloat16, WideProduct<V, bfloat16>>::run(linear, block, scratch)
      : LinearTiles<V, float, WideProduct<V, float>>::run(linear, block, scratch);
}

}  // namespace pdrt
