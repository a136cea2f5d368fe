// Products of int8 weights: rows of inputs become bytes, four of which a dot product takes at once.
//
// Largest magnitude over 127 is the scale, per row of inputs and per output; sums are whole numbers
// and so the same in any order. What is left of floating point, one division for a byte and two
// products for a sum, IEEE 754 rounds in one way only: so all instruction sets give the same bits.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>

#include "bfloat16.h"
#include "cpu_linear.h"

namespace pdrt {

template <typename V, typename T>
class ByteRow {
  using F = typename V::Floats;
  static constexpr int kLanes = V::kLanes;

 public:
  // Writes a row of bytes; see byte_row_size. Returns its scale: 0 for a row of zeros, NaN where a
  // number is not finite.
  static float write(const T* x, int64_t size, uint8_t* bytes) {
    const float scale = scale_of(x, size);
    const F divisor = V::set(scale > 0 ? scale : 1.0f);
    for (int64_t i = 0; i < size; i += kLanes)
      V::store_bytes(bytes + i, steps(load(x + i, size - i), divisor));
    for (int64_t i = (size + kLanes - 1) / kLanes * kLanes; i % kByteStep; ++i) bytes[i] = 128;
    std::memcpy(bytes + byte_row_size(size) - kByteStep, &scale, sizeof scale);
    return scale;
  }

 private:
  static float scale_of(const T* x, int64_t size) {
    F largest = V::set(0), none = V::set(0);
    for (int64_t i = 0; i < size; i += kLanes) {
      const F numbers = load(x + i, size - i);
      largest = V::max(largest, V::max(numbers, V::set(0) - numbers));
      none = none + (numbers - numbers);  // of what is not finite, NaN
    }
    float lanes[2][kLanes], most = 0, zero = 0;
    V::store(lanes[0], largest);
    V::store(lanes[1], none);
    for (int i = 0; i < kLanes; ++i) most = std::max(most, lanes[0][i]), zero += lanes[1][i];
    return zero == 0 ? most / 127 : std::numeric_limits<float>::quiet_NaN();
  }

  // 128 + q, whole. The bounds are for scales so small that they are rounded, and for NaN.
  static F steps(F x, F divisor) {
    const F q = V::max(V::round(V::div(x, divisor)), V::set(-127));
    return V::min(q, V::set(127)) + V::set(128);
  }

  static F load(const T* x, int64_t left) {
    return left >= kLanes ? V::load(x) : V::load_first(x, static_cast<int>(left));
  }
};

// Rows of Linear::x; what quantize_portable and its like are made of.
template <typename V>
struct Quantize {
  static void rows(const Linear& linear, int64_t first, int64_t end, uint8_t* bytes) {
    linear.shape.is_bfloat16 ? of<bfloat16>(linear, first, end, bytes)
                             : of<float>(linear, first, end, bytes);
  }

 private:
  template <typename T>
  static void of(const Linear& linear, int64_t first, int64_t end, uint8_t* bytes) {
    const int64_t size = linear.shape.num_inputs;
    const T* x = static_cast<const T*>(linear.x);
    for (int64_t row = first; row < end; ++row, bytes += byte_row_size(size))
      ByteRow<V, T>::write(x + row * size, size, bytes);
  }
};

template <typename V>
struct Int8Product {
  using X = uint8_t;
  static constexpr int kRows = V::kLanes == 16 ? 8 : 4;
  static constexpr int kVectors = 2;
  static constexpr int kColumns = kVectors * V::kLanes;

  static int64_t row_size(const PackedShape& shape) { return byte_row_size(shape.num_inputs); }

  static const uint8_t* rows(const Linear& linear, const LinearBlock& block, float*) {
    return static_cast<const uint8_t*>(linear.x) + block.first_row * row_size(linear.shape);
  }

  template <int kCount, typename Fetch>
  static void run(const uint8_t* x, int64_t size, const void* panel, Fetch& fetch, float* sums) {
    for (int c = 0; c < kPanel; c += kColumns)
      columns<kCount>(x, size, static_cast<const char*>(panel) + c * 4, fetch, sums + c);
  }

 private:
  // panel: at the first of the columns.
  template <int kCount, typename Fetch>
  static void columns(const uint8_t* x, int64_t size, const char* panel, Fetch& fetch,
                      float* sums) {
    const int64_t num_inputs = size - kByteStep;
    const auto* scales = reinterpret_cast<const float*>(panel + num_inputs * kPanel);
    const auto* starts = reinterpret_cast<const int32_t*>(scales + kPanel);
    typename V::Ints acc[kCount][kVectors];
#pragma GCC unroll 8
    for (int r = 0; r < kCount; ++r)
      for (int v = 0; v < kVectors; ++v) acc[r][v] = V::load_ints(starts + v * V::kLanes);
    for (int64_t k = 0; k < num_inputs; k += 4, panel += kPanel * 4) {
      fetch.step();
      add<kCount>(x + k, size, panel, acc);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kCount; ++r) {
      float scale;
      std::memcpy(&scale, x + r * size + num_inputs, sizeof scale);
      for (int v = 0; v < kVectors; ++v)
        V::store(sums + r * kPanel + v * V::kLanes,
                 V::to_floats(acc[r][v]) * V::set(scale) * V::load(scales + v * V::kLanes));
    }
  }

  template <int kCount>
  static inline __attribute__((always_inline)) void add(const uint8_t* x, int64_t size,
                                                        const char* panel,
                                                        typename V::Ints (&acc)[kCount][kVectors]) {
    typename V::Quads weight[kVectors];
    for (int v = 0; v < kVectors; ++v) weight[v] = V::load_signed(panel + v * V::kLanes * 4);
#pragma GCC unroll 8
    for (int r = 0; r < kCount; ++r) {
      const typename V::Quads input = V::set_unsigned(x + r * size);
      for (int v = 0; v < kVectors; ++v) acc[r][v] = V::dot(weight[v], input, acc[r][v]);
    }
  }
};

}  // namespace pdrt
