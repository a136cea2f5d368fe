// How attention multiplies where every element is widened to float32: one element at a time.
//
// attention_tile.h and attention_few.h are written over such a type. Its unit is a word: kPack
// neighbours that one multiply-add takes, in the 32 bits of a float. Here a word is one element; in
// attention_pairs_avx512.h it is two.
#pragma once

#include <algorithm>

#include "bfloat16.h"
#include "simd_math.h"

namespace pdrt {

template <typename Vector, typename Element>
struct Singles {
  using V = Vector;
  using T = Element;
  using F = typename V::Floats;
  static constexpr int kPack = 1;
  static constexpr int kStep = 1;  // vectors of words that are loaded together
  static constexpr int kLanes = V::kLanes;

  static F dot(F a, F b, F acc) { return V::fma(a, b, acc); }

  // What weighs a score, and the unit in which scores are counted for it.
  static constexpr float kExponents = 1.0f;
  static F exp(F x) { return pdrt::exp<V>(x); }

  // The word of the elements at p.
  static float word(const T* p) { return to_float(*p); }
  // The first n words at p.
  static F words(const T* p, int n) { return n >= kLanes ? V::load(p) : V::load_first(p, n); }

  // A weight as it is multiplied, in float32.
  static F rounded(F weight) { return weight; }
  // The word of its positions' weights, and one of them again.
  static F join(const F (&weights)[1]) { return weights[0]; }
  static F part(F word, int) { return word; }
  // kLanes weights to their place among the words.
  static void store_weights(float* words, int first, F weight) { V::store(words + first, weight); }

  // Rows [first, count) of head_dim elements as floats: where they are, or widened to their place
  // in buffer. Returns row 0's place.
  static const float* keys(const float* rows, int, int, int64_t, float*) { return rows; }
  static const float* keys(const bfloat16* rows, int first, int count, int64_t head_dim,
                           float* buffer) {
    const int64_t size = count * head_dim;
    int64_t i = first * head_dim;
    for (; i + kLanes <= size; i += kLanes) V::store(buffer + i, V::load(rows + i));
    if (i < size) V::store_first(buffer + i, V::load_first(rows + i, size - i), size - i);
    return buffer;
  }
  // A word of a key, and the words of values likewise, for all lanes.
  static F key(const float* keys, int64_t word) { return V::set(keys[word]); }
  static const float* values(const T* rows, int first, int count, int64_t head_dim, float* buffer) {
    return keys(rows, first, count, head_dim, buffer);
  }

  // Lanes that see a word's position; the others keep their acc.
  using Seen = typename V::Mask;
  static Seen seen(typename V::Mask mask) { return mask; }
  static F dot_where(Seen seen, F a, F b, F acc) { return V::fma_where(seen, a, b, acc); }

  // kStep vectors of the values in a word's rows, of which the first n elements each are read.
  static void load_values(const T* const* rows, const int* n, F* value) {
    value[0] = words(rows[0], n[0]);
  }
  // n elements of a result that was summed in such vectors.
  static void store_result(const F* result, T* out, int n) {
    V::store_first(out, result[0], std::min(n, kLanes));
  }
};

}  // namespace pdrt
