// Products of int8 weights: inputs become bytes, four of which a dot product takes at once.
//
// A group's sum is a whole number, the same in any order. What is left of floating point, products
// and additions and two divisions for a scale, IEEE 754 rounds in one way only, so all instruction
// sets give the same bits: nothing is fused here.
#pragma once

#include <algorithm>
#include <cstring>

#include "bfloat16.h"
#include "cpu_linear.h"

namespace pdrt {

// Numbers as q scale: the scale is the largest magnitude over 127, q the nearest whole number.
template <typename V, typename T>
class Quantizer {
  using F = typename V::Floats;
  static constexpr int kLanes = V::kLanes;
  static constexpr float kLeastScale = 0x1p-120f;  // whose inverse is finite; below, all q are 0

 public:
  struct Result {
    float scale;     // 0 of zeros, NaN where a number is not finite
    float sum_of_q;  // whole
  };

  // Writes q, and zeros up to a multiple of kGroup.
  static Result write(const T* x, int64_t size, int8_t* q) {
    F largest = V::set(0), sum = V::set(0);
    for (int64_t i = 0; i < size; i += kLanes) {
      const F numbers = load(x + i, size - i);
      largest = V::max(largest, V::max(numbers, V::set(0) - numbers));
      sum = sum + (numbers - numbers);  // 0, or NaN of what is not finite
    }
    const float scale = V::largest(largest) / 127;
    const F per_step = V::set(scale > kLeastScale ? 1 / scale : 0.0f);
    int64_t i = 0;
    for (; i < size; i += kLanes) {
      const F numbers = whole(load(x + i, size - i) * per_step);
      V::store_bytes(q + i, numbers);
      sum = sum + numbers;
    }
    for (; i % kGroup; ++i) q[i] = 0;
    const float total = V::total(sum);
    return total == total ? Result{scale, total} : Result{total, 0};
  }

 private:
  // Bounded, so that what is not finite becomes a byte too.
  static F whole(F x) { return V::min(V::max(V::round(x), V::set(-127)), V::set(127)); }

  static F load(const T* x, int64_t left) {
    return left >= kLanes ? V::load(x) : V::load_first(x, static_cast<int>(left));
  }
};

// Rows of Linear::x; what quantize_portable and its like are made of.
template <typename V>
struct Quantize {
  static void rows(const Linear& linear, int64_t first, int64_t end, InputGroup* groups) {
    linear.shape.is_bfloat16 ? of<bfloat16>(linear, first, end, groups)
                             : of<float>(linear, first, end, groups);
  }

 private:
  template <typename T>
  static void of(const Linear& linear, int64_t first, int64_t end, InputGroup* group) {
    const int64_t size = linear.shape.num_inputs;
    for (int64_t row = first; row < end; ++row) {
      const T* x = static_cast<const T*>(linear.x) + row * size;
      for (int64_t i = 0; i < size; i += kGroup, ++group) {
        const auto done =
            Quantizer<V, T>::write(x + i, std::min<int64_t>(kGroup, size - i), group->q);
        group->scale = done.scale;
        group->start = -128 * static_cast<int32_t>(done.sum_of_q);
      }
    }
  }
};

template <typename V>
struct Int8Product {
  using X = InputGroup;
  static constexpr int kRows = V::kLanes == 16 ? 8 : 4;
  static constexpr int kVectors = 2;
  static constexpr int kColumns = kVectors * V::kLanes;

  static int64_t row_size(const PackedShape& shape) { return shape.num_groups(); }

  static const InputGroup* rows(const Linear& linear, const LinearBlock& block, float*) {
    return static_cast<const InputGroup*>(linear.x) + block.first_row * linear.shape.num_groups();
  }

  // size: groups of a row.
  template <int kCount, typename Fetch>
  static void run(const InputGroup* x, int64_t size, const void* panel, Fetch& fetch, float* sums) {
    for (int c = 0; c < kPanel; c += kColumns)
      columns<kCount>(x, size, static_cast<const char*>(panel) + c * 4, fetch, sums + c);
  }

 private:
  using Ints = typename V::Ints;
  // What the instruction adds to. With the 64-bit lanes of __m512i, GCC 12 copies every sum twice
  // in every step.
  typedef int32_t Sums __attribute__((vector_size(4 * V::kLanes)));

  // panel: at the first of the columns.
  template <int kCount, typename Fetch>
  static void columns(const InputGroup* x, int64_t size, const char* panel, Fetch& fetch,
                      float* sums) {
    for (int r = 0; r < kCount; ++r)
      for (int v = 0; v < kVectors; ++v) V::store(at(sums, r, v), V::set(0));
    for (int64_t g = 0; g < size; ++g, panel += kGroup * kPanel)
      group<kCount>(x + g, size, panel, fetch, sums);
    const auto* scales = reinterpret_cast<const float*>(panel);
    for (int r = 0; r < kCount; ++r)
      for (int v = 0; v < kVectors; ++v)
        V::store(at(sums, r, v), V::load(at(sums, r, v)) * V::load(scales + v * V::kLanes));
  }

  // sums += the products of a group of each row. They wait in memory, as the whole numbers take the
  // registers.
  template <int kCount, typename Fetch>
  static inline __attribute__((always_inline)) void group(const InputGroup* x, int64_t size,
                                                          const char* panel, Fetch& fetch,
                                                          float* sums) {
    Sums acc[kCount][kVectors];
#pragma GCC unroll 8
    for (int r = 0; r < kCount; ++r)
      for (int v = 0; v < kVectors; ++v) acc[r][v] = (Sums)V::set_ints(x[r * size].start);
    for (int k = 0; k < kGroup; k += 4, panel += kPanel * 4) {
      fetch.step();
      typename V::Quads weight[kVectors];
      for (int v = 0; v < kVectors; ++v) weight[v] = V::load_unsigned(panel + v * V::kLanes * 4);
#pragma GCC unroll 8
      for (int r = 0; r < kCount; ++r) {
        const typename V::Quads input = V::set_signed(x[r * size].q + k);
        for (int v = 0; v < kVectors; ++v)
          acc[r][v] = (Sums)V::dot(weight[v], input, (Ints)acc[r][v]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kCount; ++r)
      for (int v = 0; v < kVectors; ++v)
        V::store(at(sums, r, v), V::load(at(sums, r, v)) +
                                     V::to_floats((Ints)acc[r][v]) * V::set(x[r * size].scale));
  }

  static float* at(float* sums, int row, int vector) {
    return sums + row * kPanel + vector * V::kLanes;
  }
};

}  // namespace pdrt
