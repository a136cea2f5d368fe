// Eight floats at once, with AVX2 and FMA; the counterpart of simd_avx512.h. Include it only after
// PDRT_BEGIN_AVX2 of simd_target.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "bfloat16.h"

namespace pdrt {

struct Avx2 {
  static constexpr int kLanes = 8;
  using Floats = __m256;
  using Ints = __m256i;
  using Mask = __m256i;  // all bits of a lane set, or none

  static Floats set(float x) { return _mm256_set1_ps(x); }
  static Floats load(const float* p) { return _mm256_loadu_ps(p); }
  static Floats load(const bfloat16* p) {
    return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  // Lane i: p[2 i] in even, p[2 i + 1] in odd.
  static void load_pairs(const bfloat16* p, Floats& even, Floats& odd) {
    const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    even = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
    odd = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(~0xffff)));
  }
  static void store(float* p, Floats x) { _mm256_storeu_ps(p, x); }
  static void store(bfloat16* p, Floats x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(x));
  }
  // The first n lanes; the rest are 0, and their memory is neither read nor written.
  static Floats load_first(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
  static Floats load_first(const bfloat16* p, int n) {
    alignas(16) bfloat16 lanes[kLanes] = {};
    for (int i = 0; i < n; ++i) lanes[i] = p[i];
    return load(lanes);
  }
  static void store_first(float* p, Floats x, int n) { _mm256_maskstore_ps(p, first(n), x); }
  static void store_first(bfloat16* p, Floats x, int n) {
    alignas(16) bfloat16 lanes[kLanes];
    store(lanes, x);
    for (int i = 0; i < n; ++i) p[i] = lanes[i];
  }

  static Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  static Floats fma_where(Mask mask, Floats a, Floats b, Floats c) {
    return select(mask, fma(a, b, c), c);
  }
  // The second operand if either is a NaN.
  static Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
  static Floats min(Floats a, Floats b) { return _mm256_min_ps(a, b); }
  static Floats select(Mask mask, Floats yes, Floats no) {
    return _mm256_blendv_ps(no, yes, _mm256_castsi256_ps(mask));
  }
  // Of all lanes. The largest of a NaN and others is any of them.
  static float largest(Floats x) {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
  static float total(Floats x) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static Floats div(Floats a, Floats b) { return _mm256_div_ps(a, b); }

  // rows[i][j] -> rows[j][i], in three rounds that exchange pairs of lanes 1, 2 and 4 apart.
  static void transpose(Floats (&rows)[kLanes]) {
    Floats other[kLanes];
    for (int i = 0; i < kLanes; i += 2) {
      other[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
      other[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < kLanes; i += 4) {
      rows[i] = _mm256_shuffle_ps(other[i], other[i + 2], 0x44);
      rows[i + 1] = _mm256_shuffle_ps(other[i], other[i + 2], 0xee);
      rows[i + 2] = _mm256_shuffle_ps(other[i + 1], other[i + 3], 0x44);
      rows[i + 3] = _mm256_shuffle_ps(other[i + 1], other[i + 3], 0xee);
    }
    for (int i = 0; i < 4; ++i) {
      const Floats low = rows[i], high = rows[4 + i];
      rows[i] = _mm256_permute2f128_ps(low, high, 0x20);
      rows[4 + i] = _mm256_permute2f128_ps(low, high, 0x31);
    }
  }

  static Mask first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static Ints load_ints(const int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static Mask greater(Ints a, int32_t b) { return _mm256_cmpgt_epi32(a, _mm256_set1_epi32(b)); }
  // Also where one is a NaN.
  static Mask differs(Floats a, Floats b) {
    return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_NEQ_UQ));
  }

  // Four bytes in each lane, for dot: unsigned ones from memory, or the same signed ones in all.
  // 16 bits for each: the sum of two products that vpmaddubsw makes of them need not fit 16 bits.
  struct Quads {
    __m256i even, odd;
  };
  static Quads load_unsigned(const void* p) {
    const __m256i bytes = _mm256_loadu_si256(static_cast<const __m256i*>(p));
    return {_mm256_and_si256(bytes, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(bytes, 8)};
  }
  static Quads set_signed(const int8_t* p) {
    int32_t bytes;
    std::memcpy(&bytes, p, sizeof bytes);
    const __m256i all = _mm256_set1_epi32(bytes);
    return {_mm256_srai_epi16(_mm256_slli_epi16(all, 8), 8), _mm256_srai_epi16(all, 8)};
  }
  // sum + the four products of x, unsigned, and y, signed
  static Ints dot(Quads x, Quads y, Ints sum) {
    const Ints even = _mm256_madd_epi16(x.even, y.even), odd = _mm256_madd_epi16(x.odd, y.odd);
    return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
  }
  static Ints set_ints(int32_t x) { return _mm256_set1_epi32(x); }
  static Floats to_floats(Ints x) { return _mm256_cvtepi32_ps(x); }
  // Whole numbers from -128 to 127.
  static void store_bytes(int8_t* p, Floats x) {
    const __m256i ints = _mm256_cvtps_epi32(x);
    const __m128i shorts =
        _mm_packs_epi32(_mm256_castsi256_si128(ints), _mm256_extracti128_si256(ints, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(shorts, shorts));
  }

  static Floats round(Floats x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // x * 2^n for whole n <= 128; 0 for n < -126, infinite for n = 128.
  static Floats scale(Floats x, Floats n) {
    const __m256i exponent = _mm256_cvtps_epi32(max(set(-127), n));
    const __m256i bits = _mm256_slli_epi32(_mm256_add_epi32(exponent, _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(x, _mm256_castsi256_ps(bits));
  }

 private:
  static Floats widen(__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
  }
  // As from_float of bfloat16.h.
  static __m128i narrow(Floats x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i upper =
        _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), _mm256_set1_epi32(0x7fc0), nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
  }
};

}  // namespace pdrt
