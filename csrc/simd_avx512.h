// Sixteen floats at once; the counterpart of simd_portable.h. Include it only after
// PDRT_BEGIN_AVX512 of simd_target.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "bfloat16.h"
#include "transpose16_avx512.h"

namespace pdrt {

struct Avx512 {
  static constexpr int kLanes = 16;
  using Floats = __m512;
  using Ints = __m512i;
  using Mask = __mmask16;

  static Floats set(float x) { return _mm512_set1_ps(x); }
  static Floats load(const float* p) { return _mm512_loadu_ps(p); }
  static Floats load(const bfloat16* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  // Lane i: p[2 i] in even, p[2 i + 1] in odd.
  static void load_pairs(const bfloat16* p, Floats& even, Floats& odd) {
    const __m512i pairs = _mm512_loadu_si512(p);
    even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(~0xffff)));
  }
  static void store(float* p, Floats x) { _mm512_storeu_ps(p, x); }
  static void store(bfloat16* p, Floats x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x));
  }
  // The first n lanes; the rest are 0, and their memory is neither read nor written.
  static Floats load_first(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static Floats load_first(const bfloat16* p, int n) {
    return widen(_mm256_maskz_loadu_epi16(first(n), p));
  }
  static void store_first(float* p, Floats x, int n) { _mm512_mask_storeu_ps(p, first(n), x); }
  static void store_first(bfloat16* p, Floats x, int n) {
    _mm256_mask_storeu_epi16(p, first(n), narrow(x));
  }

  static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static Floats fma_where(Mask mask, Floats a, Floats b, Floats c) {
    return _mm512_mask3_fmadd_ps(a, b, c, mask);
  }
  // The second operand if either is a NaN.
  static Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
  static Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
  static Floats select(Mask mask, Floats yes, Floats no) {
    return _mm512_mask_blend_ps(mask, no, yes);
  }
  // Of all lanes. The largest of a NaN and others is any of them.
  static float largest(Floats x) { return _mm512_reduce_max_ps(x); }
  static float total(Floats x) { return _mm512_reduce_add_ps(x); }
  static Floats div(Floats a, Floats b) { return _mm512_div_ps(a, b); }

  static void transpose(Floats (&rows)[kLanes]) { transpose16(rows); }

  static Mask first(int n) { return static_cast<Mask>((1u << n) - 1); }
  static Ints load_ints(const int32_t* p) { return _mm512_loadu_si512(p); }
  static Mask greater(Ints a, int32_t b) {
    return _mm512_cmpgt_epi32_mask(a, _mm512_set1_epi32(b));
  }
  // Also where one is a NaN.
  static Mask differs(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ); }

  // Four bytes in each lane, for dot: unsigned ones from memory, or the same signed ones in all.
  // 16 bits for each: the sum of two products that vpmaddubsw makes of them need not fit 16 bits.
  struct Quads {
    __m512i even, odd;
  };
  static Quads load_unsigned(const void* p) {
    const __m512i bytes = _mm512_loadu_si512(p);
    return {_mm512_and_si512(bytes, _mm512_set1_epi16(0xff)), _mm512_srli_epi16(bytes, 8)};
  }
  static Quads set_signed(const int8_t* p) {
    int32_t bytes;
    std::memcpy(&bytes, p, sizeof bytes);
    const __m512i all = _mm512_set1_epi32(bytes);
    return {_mm512_srai_epi16(_mm512_slli_epi16(all, 8), 8), _mm512_srai_epi16(all, 8)};
  }
  // sum + the four products of x, unsigned, and y, signed
  static Ints dot(Quads x, Quads y, Ints sum) {
    const Ints even = _mm512_madd_epi16(x.even, y.even), odd = _mm512_madd_epi16(x.odd, y.odd);
    return _mm512_add_epi32(sum, _mm512_add_epi32(even, odd));
  }
  static Ints set_ints(int32_t x) { return _mm512_set1_epi32(x); }
  static Floats to_floats(Ints x) { return _mm512_cvtepi32_ps(x); }
  // Whole numbers from -128 to 127.
  static void store_bytes(int8_t* p, Floats x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
  }

  static Floats round(Floats x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // x * 2^n for whole n.
  static Floats scale(Floats x, Floats n) { return _mm512_scalef_ps(x, n); }

 private:
  static Floats widen(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
  }
  // As from_float of bfloat16.h.
  static __m256i narrow(Floats x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(1 << 16));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    __m512i up = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
    up = _mm512_mask_add_epi32(up, odd, up, _mm512_set1_epi32(1));
    up = _mm512_mask_mov_epi32(up, nan, _mm512_set1_epi32(0x7fc00000));
    const __m512i upper =
        _mm512_setr_epi32(0x00030001, 0x00070005, 0x000b0009, 0x000f000d, 0x00130011, 0x00170015,
                          0x001b0019, 0x001f001d, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm512_castsi512_si256(_mm512_permutexvar_epi16(upper, up));
  }
};

}  // namespace pdrt
