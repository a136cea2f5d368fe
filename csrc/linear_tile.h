// A block of a product: tiles of a few rows by one panel, over a vector type and a dtype.
//
// Each sum is one chain of multiply-adds over the inputs in their order, in a register from the
// first input to the last, whatever the tile; so a row's bits depend on no other row.
//
// With few rows a product takes as long as its weights take to come from memory; they are fetched
// ahead by software, since a hardware prefetcher stops at every 4 KB. A handful of rows wants them
// a little ahead and in the first-level cache, but not in the second, which is left to what the
// program needs between two products. More rows compute long enough on a panel to have all of the
// next one brought to the second level meanwhile, evenly over all tiles, so that memory is never
// idle while a second tile passes over a panel that is there. Measured: docs/cpu.md.
#pragma once

#include <algorithm>
#include <type_traits>

#include "bfloat16.h"
#include "cpu_linear.h"
#include "linear_finish.h"

namespace pdrt {

constexpr int kHandful = 4;         // rows
constexpr int kLittleAhead = 4096;  // bytes

// Memory that is brought to a cache while a product computes: two lines at each of its steps, and
// on by `stride` bytes. Lines that were fetched before cost next to nothing.
template <int kLocality>
struct Prefetch {
  const char* at;
  int64_t stride;

  void step() {
    __builtin_prefetch(at, 0, kLocality);
    __builtin_prefetch(at + 64, 0, kLocality);
    at += stride;
  }
};
using PrefetchNear = Prefetch<0>;  // to the first level, past the second
using PrefetchFar = Prefetch<2>;   // to the second

// Products over widened bfloat16 or float32, for any vector type.
template <typename V, typename T>
struct WideProduct {
  using X = float;  // dtype of the rows that run() takes, row_size() of them each
  static constexpr int kRows = V::kLanes == 16 ? 8 : 4;  // so that the sums stay in registers
  static constexpr int kVectors = 2;
  static constexpr int kColumns = kVectors * V::kLanes;

  static int64_t row_size(const PackedShape& shape) { return shape.num_inputs; }

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
  template <int kCount, typename Fetch>
  static void run(const float* x, int64_t size, const void* panel, Fetch& fetch, float* sums) {
    for (int c = 0; c < kPanel; c += kColumns)
      columns<kCount>(x, size, static_cast<const char*>(panel) + c * 4, fetch, sums + c);
  }

 private:
  using F = typename V::Floats;

  template <int kCount, typename Fetch>
  static void columns(const float* x, int64_t size, const char* panel, Fetch& fetch, float* sums) {
    F acc[kCount][kVectors] = {};
    if constexpr (std::is_same_v<T, float>) {
      for (int64_t k = 0; k < size; ++k, panel += kPanel * 4) {
        fetch.step();
        F weight[kVectors];
        for (int v = 0; v < kVectors; ++v)
          weight[v] = V::load(reinterpret_cast<const float*>(panel) + v * V::kLanes);
        add<kCount>(x + k, size, weight, acc);
      }
    } else {
      for (int64_t k = 0; k < size; k += 2, panel += kPanel * 4) {
        fetch.step();
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

  template <typename Out>
  static void down(const Linear& linear, const LinearBlock& block, const typename Product::X* x,
                   const char* panel, int64_t panel_index) {
    const int64_t num_rows = block.end_row - block.first_row;
    const LinearFinish<V, T, Out> finish(linear, panel_index);
    if (num_rows <= kHandful) {
      PrefetchNear fetch = {panel + kLittleAhead, kPanel * 4};
      return tiles<kHandful>(linear, block, x, panel, fetch, finish);
    }
    const int64_t num_passes = (num_rows + kRows - 1) / kRows * (kPanel / Product::kColumns);
    PrefetchFar fetch = {panel + linear.shape.panel_bytes(),
                         (kPanel * 4 + num_passes - 1) / num_passes};
    tiles<kRows>(linear, block, x, panel, fetch, finish);
  }

  // All rows of the block by one panel. Tiles are as equal as they can be: one of 8 rows and one of
  // 1 take longer than two of 4 and 5, as the single row's sums wait for themselves.
  template <int kMost, typename Fetch, typename Finish>
  static void tiles(const Linear& linear, const LinearBlock& block, const typename Product::X* x,
                    const char* panel, Fetch& fetch, const Finish& finish) {
    const int64_t size = Product::row_size(linear.shape);
    alignas(64) float sums[kRows * kPanel];
    int64_t left = block.end_row - block.first_row, tiles = (left + kRows - 1) / kRows;
    for (int64_t row = block.first_row; left > 0; --tiles) {
      const int count = static_cast<int>((left + tiles - 1) / tiles);
      product<kMost>(count, x + (row - block.first_row) * size, size, panel, fetch, sums);
      finish.run(sums, row, count);
      row += count, left -= count;
    }
  }

  // `count` rows, from 1 to kMost: the one of these that has this many.
  template <int kMost, typename Fetch>
  static void product(int count, const typename Product::X* x, int64_t size, const char* panel,
                      Fetch& fetch, float* sums) {
    if constexpr (kMost > 1)
      if (count < kMost) return product<kMost - 1>(count, x, size, panel, fetch, sums);
    Product::template run<kMost>(x, size, panel, fetch, sums);
  }
};

}  // namespace pdrt
