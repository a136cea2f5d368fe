// One row of each operation of elementwise.h, over a vector type and a dtype.
#pragma once

#include <cmath>
#include <cstring>

#include "bfloat16.h"
#include "elementwise.h"
#include "simd_lanes.h"
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
    const F factor = inverse_rms(x, size, norm.eps);
    // -0 is what changes no number when added, a weight of -0 included.
    const F offset = V::set(norm.weight_offset == 0.0f ? -0.0f : norm.weight_offset);
    const T* weight = static_cast<const T*>(norm.weight);
    T* out = static_cast<T*>(norm.out) + row * size;
    each(size, [&](auto at) { at.store(out, at.load(x) * factor * (at.load(weight) + offset)); });
  }

  static void layer_norm(const Norm& norm, int64_t row) {
    const T* x = summed(norm, row);
    const int64_t size = norm.size;
    const float count = static_cast<float>(size);
    const F about = V::set(sum(size, [&](auto at) { return at.load(x); }) / count);
    // What a sum of large numbers lost is in the mean of what is left of them.
    const float rest = sum(size, [&](auto at) { return at.only(at.load(x) - about); });
    const F mean = about + V::set(rest / count);
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
    gated<silu<V>>(activation, row);
  }
  static void gelu_tanh_and_mul(const Activation& activation, int64_t row) {
    gated<pdrt::gelu_tanh<V>>(activation, row);
  }
  static void gelu_tanh(const Activation& activation, int64_t row) {
    activated<pdrt::gelu_tanh<V>>(activation, row);
  }
  static void gelu(const Activation& activation, int64_t row) {
    activated<pdrt::gelu<V>>(activation, row);
  }

  static void rope(const Rope& rope, int64_t token) {
    T* heads = static_cast<T*>(rope.qkv) + token * rope.qkv_stride;
    const float* cos = rope.cos_sin + rope.positions[token] * rope.rotary_dim;
    for (int64_t head = 0; head < rope.num_heads; ++head) {
      T* query = heads + head * rope.head_dim;
      turn(rope, cos, rope.q_norm, query, query);
    }
    const int64_t slot = rope.slot_mapping[token];
    if (slot < 0) return;
    const T* keys = heads + rope.num_heads * rope.head_dim;
    const T* values = keys + rope.num_kv_heads * rope.head_dim;
    T* page = static_cast<T*>(rope.kv) + slot / rope.page_size * rope.page_stride +
              slot % rope.page_size * rope.head_dim;
    for (int64_t head = 0; head < rope.num_kv_heads; ++head) {
      T* to = page + head * rope.head_stride;
      turn(rope, cos, rope.k_norm, keys + head * rope.head_dim, to);
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

  // Lane by lane over the row, then halves of the lanes.
  template <typename Term>
  static float sum(int64_t size, Term term) {
    F total = V::set(0.0f);
    each(size, [&](auto at) { total = total + term(at); });
    return over_lanes<V>(total, [](float x, float y) { return x + y; });
  }

  // The row to be normed: x, or residual after x was added to it.
  static const T* summed(const Norm& norm, int64_t row) {
    const T* x = static_cast<const T*>(norm.x) + row * norm.size;
    if (norm.residual == nullptr) return x;
    T* residual = static_cast<T*>(norm.residual) + row * norm.size;
    each(norm.size, [&](auto at) { at.store(residual, at.load(residual) + at.load(x)); });
    return residual;
  }

  static F inverse_rms(const T* x, int64_t size, float eps) {
    const float squares = sum(size, [&](auto at) { return at.load(x) * at.load(x); });
    return V::set(1.0f / std::sqrt(squares / static_cast<float>(size) + eps));
  }

  template <F (*kFunction)(F)>
  static void activated(const Activation& activation, int64_t row) {
    const T* x = static_cast<const T*>(activation.x) + row * activation.size;
    T* out = static_cast<T*>(activation.out) + row * activation.size;
    each(activation.size, [&](auto at) { at.store(out, kFunction(at.load(x))); });
  }
  template <F (*kFunction)(F)>
  static void gated(const Activation& activation, int64_t row) {
    const int64_t size = activation.size;
    const T* gate = static_cast<const T*>(activation.x) + row * 2 * size;
    const T* up = gate + size;
    T* out = static_cast<T*>(activation.out) + row * size;
    each(size, [&](auto at) { at.store(out, kFunction(at.load(gate)) * at.load(up)); });
  }

  // A head, normed if there is a weight for it, and rotated; `to` may be `from`.
  static void turn(const Rope& rope, const float* cos, const void* norm, const T* from, T* to) {
    const int64_t rotary_dim = rope.rotary_dim, rest = rope.head_dim - rotary_dim;
    if (norm == nullptr) {
      rotate(rope, cos, to, [&](auto at, int64_t i) { return at.load(from + i); });
      if (to != from) std::memcpy(to + rotary_dim, from + rotary_dim, rest * sizeof(T));
      return;
    }
    const T* weight = static_cast<const T*>(norm);
    const F factor = inverse_rms(from, rope.head_dim, rope.norm_eps);
    const auto normed = [&](auto at, int64_t i) {
      return at.load(from + i) * factor * at.load(weight + i);
    };
    rotate(rope, cos, to, normed);
    each(rest, [&](auto at) { at.store(to + rotary_dim, normed(at, rotary_dim)); });
  }

  // The first rotary_dim dimensions of a head, in pairs (i, i + rotary_dim / 2). head(at, i) is
  // what stands at that place of the head from dimension i on.
  template <typename Head>
  static void rotate(const Rope& rope, const float* cos, T* to, Head head) {
    const int64_t half = rope.rotary_dim / 2;
    each(half, [&](auto at) {
      const F c = at.load(cos), s = at.load(cos + half);
      const F first = head(at, 0), second = head(at, half);
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
    .gelu = ElementwiseRows<V, T>::gelu,
    .gelu_tanh = ElementwiseRows<V, T>::gelu_tanh,
    .gelu_tanh_and_mul = ElementwiseRows<V, T>::gelu_tanh_and_mul,
    .rope = ElementwiseRows<V, T>::rope,
};

}  // namespace pdrt
