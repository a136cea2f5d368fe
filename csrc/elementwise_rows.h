// One row of each operation of elementwise.h, over a vector type and a dtype.
#pragma once

#include <cmath>
#include <cstring>

#include "bfloat16.h"
#include "elementwise.h"
#include "simd_math.h"

namespace pdrt {

template <typename V, typename T>
class ElementwiseRows {
  using F = typename V::Floats;
  static constexpr int kLanes = V::kLanes;

 public:
  static void rms_norm(const Norm& norm, int64_t row) {
    const T* x = summed(norm, row);
    const int64_t size = norm.size;
    const float squares = sum(size, [&](auto at) { return at.load(x) * at.load(x); });
    const F factor = V::set(1.0f / std::sqrt(squares / static_cast<float>(size) + norm.eps));
    const T* weight = static_cast<const T*>(norm.weight);
    T* out = static_cast<T*>(norm.out) + row * size;
    each(size, [&](auto at) { at.store(out, at.load(x) * factor * at.load(weight)); });
  }

  static void layer_norm(const Norm& norm, int64_t row) {
    const T* x = summed(norm, row);
    const int64_t size = norm.size;
    const float count = static_cast<float>(size);
    const F mean = V::set(sum(size, [&](auto at) { return at.load(x); }) / count);
    const float squares = sum(size, [&](auto at) {
      const F centred = at.only(at.load(x) - mean);
      return centred * centred;
    });
    const F factor = V::set(1.0f / std::sqrt(squares / count + norm.eps));
    const T* weight = static_cast<const T*>(norm.weight);
    const T* bias = static_cast<const T*>(norm.bias);
    T* out = static_cast<T*>(norm.out) + row * size;
    each(size, [&](auto at) {
      at.store(out, V::fma((at.load(x) - mean) * factor, at.load(weight), at.load(bias)));
    });
  }

  static void silu_and_mul(const Activation& activation, int64_t row) {
    const int64_t size = activation.size;
    const T* gate = static_cast<const T*>(activation.x) + row * 2 * size;
    const T* up = gate + size;
    T* out = static_cast<T*>(activation.out) + row * size;
    each(size, [&](auto at) {
      const F g = at.load(gate);
      at.store(out, times_sigmoid(g, g) * at.load(up));
    });
  }

  static void gelu_tanh(const Activation& activation, int64_t row) {
    const T* x = static_cast<const T*>(activation.x) + row * activation.size;
    T* out = static_cast<T*>(activation.out) + row * activation.size;
    // (1 + tanh u) / 2 is the sigmoid of 2u; 2 sqrt(2 / pi) = 1.5957691
    each(activation.size, [&](auto at) {
      const F value = at.load(x);
      const F cubic = V::fma(V::set(0.044715f) * value * value, value, value);
      at.store(out, times_sigmoid(value, V::set(1.5957691216f) * cubic));
    });
  }

  static void rope(const Rope& rope, int64_t token) {
    T* heads = static_cast<T*>(rope.qkv) + token * rope.qkv_stride;
    const float* cos = rope.cos_sin + rope.positions[token] * rope.rotary_dim;
    for (int64_t head = 0; head < rope.num_heads; ++head)
      rotate(rope, cos, heads + head * rope.head_dim, heads + head * rope.head_dim);
    const int64_t slot = rope.slot_mapping[token];
    if (slot < 0) return;
    const T* keys = heads + rope.num_heads * rope.head_dim;
    const T* values = keys + rope.num_kv_heads * rope.head_dim;
    const size_t rest = (rope.head_dim - rope.rotary_dim) * sizeof(T);
    T* page = static_cast<T*>(rope.kv) + slot / rope.page_size * rope.page_stride +
              slot % rope.page_size * rope.head_dim;
    for (int64_t head = 0; head < rope.num_kv_heads; ++head) {
      const T* key = keys + head * rope.head_dim;
      T* to = page + head * rope.head_stride;
      rotate(rope, cos, key, to);
      std::memcpy(to + rope.rotary_dim, key + rope.rotary_dim, rest);
      std::memcpy(to + rope.value_offset, values + head * rope.head_dim, rope.head_dim * sizeof(T));
    }
  }

 private:
  // A place in a row: a whole vector, or what is left at the end.
  struct Whole {
    int64_t i;
    template <typename U>
    F load(const U* p) const {
      return V::load(p + i);
    }
    template <typename U>
    void store(U* p, F x) const {
      V::store(p + i, x);
    }
    F only(F x) const { return x; }
  };
  struct Rest {
    int64_t i;
    int count;
    template <typename U>
    F load(const U* p) const {
      return V::load_first(p + i, count);
    }
    template <typename U>
    void store(U* p, F x) const {
      V::store_first(p + i, x, count);
    }
    // x with 0 in the lanes beyond the row.
    F only(F x) const {
      float lanes[kLanes];
      V::store(lanes, x);
      return V::load_first(lanes, count);
    }
  };

  template <typename Body>
  static void each(int64_t size, Body body) {
    int64_t i = 0;
    for (; i + kLanes <= size; i += kLanes) body(Whole{i});
    if (i < size) body(Rest{i, static_cast<int>(size - i)});
  }

  // Lane by lane over the row, then over the lanes from left to right.
  template <typename Term>
  static float sum(int64_t size, Term term) {
    F total = V::set(0.0f);
    each(size, [&](auto at) { total = total + term(at); });
    float lanes[kLanes], result = 0.0f;
    V::store(lanes, total);
    for (float lane : lanes) result += lane;
    return result;
  }

  // The row to be normed: x, or residual after x was added to it.
  static const T* summed(const Norm& norm, int64_t row) {
    const T* x = static_cast<const T*>(norm.x) + row * norm.size;
    if (norm.residual == nullptr) return x;
    T* residual = static_cast<T*>(norm.residual) + row * norm.size;
    each(norm.size, [&](auto at) { at.store(residual, at.load(residual) + at.load(x)); });
    return residual;
  }

  // x / (1 + e^-y)
  static F times_sigmoid(F x, F y) { return x / (V::set(1.0f) + exp<V>(V::set(0.0f) - y)); }

  // The first rotary_dim dimensions of a head, in pairs (i, i + rotary_dim / 2); `to` may be
  // `from`.
  static void rotate(const Rope& rope, const float* cos, const T* from, T* to) {
    const int64_t half = rope.rotary_dim / 2;
    each(half, [&](auto at) {
      const F c = at.load(cos), s = at.load(cos + half);
      const F first = at.load(from), second = at.load(from + half);
      at.store(to, V::fma(first, c, V::set(0.0f) - second * s));
      at.store(to + half, V::fma(second, c, first * s));
    });
  }
};

template <typename V, typename T>
inline constexpr Elementwise kElementwise = {
    .rms_norm = ElementwiseRows<V, T>::rms_norm,
    .layer_norm = ElementwiseRows<V, T>::layer_norm,
    .silu_and_mul = ElementwiseRows<V, T>::silu_and_mul,
    .gelu_tanh = ElementwiseRows<V, T>::gelu_tanh,
    .rope = ElementwiseRows<V, T>::rope,
};

}  // namespace pdrt
