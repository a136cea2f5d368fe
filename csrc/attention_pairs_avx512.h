// How attention multiplies bfloat16 with AVX512-BF16: two neighbours at a time, as they lie in
// memory, with no widening. The counterpart of attention_singles.h; include it only after
// PDRT_BEGIN_AVX512_BF16 of simd_target.h.
//
// For scores a word is two dimensions, for sums two positions. Weights are rounded to bfloat16,
// and it is the rounded ones that add up to the total: what they are divided by is what they are.
// Products and sums are float32, in an order that is the same for all (vdpbf16ps: the odd element
// first, each rounded; numbers below 2^-126 are 0).
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "bfloat16.h"
#include "simd_avx512.h"

namespace pdrt {

// A type of its own, so that no function compiled here passes for one for plain AVX-512.
struct Avx512Bf16 : Avx512 {};

struct Pairs {
  using V = Avx512Bf16;
  using T = bfloat16;
  using F = V::Floats;
  static constexpr int kPack = 2;
  static constexpr int kStep = 2;
  static constexpr int kLanes = V::kLanes;

  static F dot(F a, F b, F acc) { return _mm512_dpbf16_ps(acc, both(a), both(b)); }

  // Scores are counted in powers of two, and 2^x is all that is asked of their exponential: 2^n of
  // the next whole number below, by an instruction, and a cubic for the rest r of [0, 1). That is
  // 1 at 0, so that rescaling by it changes no bit, and off by at most 8.6e-5 elsewhere, where
  // rounding a weight to bfloat16 costs 2e-3. (Least squares of the relative error over 2000
  // Chebyshev points, levelled as in simd_math.h.) Minus infinity gives 0, NaN stays NaN.
  static constexpr float kExponents = 1.44269504f;  // log2 e
  static F exp(F x) {
    const F r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    F p = V::fma(V::set(7.70670399e-2f), r, V::set(2.27644995e-1f));
    p = V::fma(p, r, V::set(6.95116758e-1f));
    p = V::fma(p, r, V::set(1.0f));
    return V::scale(p, x);
  }

  static float word(const T* p) {
    float pair;
    std::memcpy(&pair, p, sizeof pair);
    return pair;
  }
  static F words(const T* p, int n) {
    if (n >= kLanes) return _mm512_loadu_ps(p);
    return _mm512_maskz_loadu_ps(V::first(n), p);
  }

  static F rounded(F weight) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow(weight)), 16));
  }
  // Weights of a word's positions, rounded, and one of them in float32.
  static F join(const F (&weights)[2]) {
    const auto halves = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(weights[1], weights[0]));
    const __m512i in_turn = _mm512_setr_epi32(
        0x100000, 0x110001, 0x120002, 0x130003, 0x140004, 0x150005, 0x160006, 0x170007, 0x180008,
        0x190009, 0x1a000a, 0x1b000b, 0x1c000c, 0x1d000d, 0x1e000e, 0x1f000f);
    return _mm512_castsi512_ps(_mm512_permutexvar_epi16(in_turn, halves));
  }
  static F part(F word, int k) {
    const __m512i bits = _mm512_castps_si512(word);
    if (k == 0) return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
    return _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(~0xffff)));
  }
  static void store_weights(float* words, int first, F weight) {
    auto* to = reinterpret_cast<__m256i*>(words + first / kPack);
    _mm256_storeu_si256(to, narrow(weight));
  }

  static const T* keys(const T* rows, int, int, int64_t, float*) { return rows; }
  static F key(const T* keys, int64_t word) {
    int pair;
    std::memcpy(&pair, keys + 2 * word, sizeof pair);
    return _mm512_castsi512_ps(_mm512_set1_epi32(pair));
  }
  // Positions 2 i and 2 i + 1 of rows [first, count) as words [i][head_dim]; 0 for one outside.
  static const float* values(const T* rows, int first, int count, int64_t head_dim, float* buffer) {
    for (int i = first / 2; 2 * i < count; ++i) {
      const T* pair[] = {rows + 2 * i * head_dim, rows + (2 * i + 1) * head_dim};
      float* to = buffer + i * head_dim;
      for (int64_t d = 0; d < head_dim; d += 2 * kLanes) {
        const int n = static_cast<int>(std::min<int64_t>(2 * kLanes, head_dim - d));
        const __m512i even = load(pair[0] + d, 2 * i >= first ? n : 0);
        const __m512i odd = load(pair[1] + d, 2 * i + 1 < count ? n : 0);
        const __m512i low = _mm512_permutex2var_epi16(even, in_turn(0), odd);
        const __m512i high = _mm512_permutex2var_epi16(even, in_turn(kLanes), odd);
        store(to + d, low, n);
        store(to + d + kLanes, high, n - kLanes);
      }
    }
    return buffer;
  }

  // Lanes that see the first, the second or both of a word's positions.
  struct Seen {
    __mmask16 any;
    __m512i bits;
  };
  static Seen seen(V::Mask even, V::Mask odd) {
    const __m512i low = _mm512_maskz_set1_epi32(even, 0xffff);
    const __m512i high = _mm512_maskz_set1_epi32(odd, ~0xffff);
    return {static_cast<__mmask16>(even | odd), _mm512_or_si512(low, high)};
  }
  // What is not seen may be NaN, which a weight of 0 would not undo.
  static F dot_where(Seen seen, F a, F b, F acc) {
    const __m512i part = _mm512_and_si512(_mm512_castps_si512(b), seen.bits);
    return _mm512_mask_dpbf16_ps(acc, seen.any, both(a), both(_mm512_castsi512_ps(part)));
  }

  // value[0] has the dimensions 0-3, 8-11, ..., value[1] those between.
  static void load_values(const T* const* rows, const int* n, F* value) {
    const __m512i even = load(rows[0], n[0]), odd = load(rows[1], n[1]);
    value[0] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(even, odd));
    value[1] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(even, odd));
  }
  static void store_result(const F* result, T* out, int n) {
    const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    V::store_first(out, _mm512_permutex2var_ps(result[0], low, result[1]), std::min(n, kLanes));
    if (n <= kLanes) return;
    const F rest = _mm512_permutex2var_ps(result[0], high, result[1]);
    V::store_first(out + kLanes, rest, std::min(n - kLanes, kLanes));
  }

 private:
  static __m512bh both(F words) { return reinterpret_cast<__m512bh>(words); }
  static __m256i narrow(F x) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)); }
  // The first n of 32 elements; the rest are 0 and not read.
  static __m512i load(const T* p, int n) {
    if (n >= 2 * kLanes) return _mm512_loadu_si512(p);
    return _mm512_maskz_loadu_epi16((1u << n) - 1, p);
  }
  // The first n of 16 words; whole vectors are much the faster to store.
  static void store(float* p, __m512i words, int n) {
    if (n >= kLanes)
      V::store(p, _mm512_castsi512_ps(words));
    else if (n > 0)
      V::store_first(p, _mm512_castsi512_ps(words), n);
  }
  // Elements start, start + 1, ... of two vectors in turn.
  static __m512i in_turn(int start) {
    const __m512i first = _mm512_setr_epi32(
        0x200000, 0x210001, 0x220002, 0x230003, 0x240004, 0x250005, 0x260006, 0x270007, 0x280008,
        0x290009, 0x2a000a, 0x2b000b, 0x2c000c, 0x2d000d, 0x2e000e, 0x2f000f);
    return _mm512_add_epi32(first, _mm512_set1_epi32(start * 0x10001));
  }
};

}  // namespace pdrt
