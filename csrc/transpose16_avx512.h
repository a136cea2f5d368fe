// Transposes 16 vectors of 16 floats in registers. Include it after PDRT_BEGIN_AVX512.
#pragma once

#include <immintrin.h>

namespace pdrt {

// rows[i][j] -> rows[j][i], in four rounds that exchange pairs of lanes 1, 2, 4 and 8 apart.
inline __attribute__((always_inline)) void transpose16(__m512 (&rows)[16]) {
  __m512 other[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    other[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
    other[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
  }
  // rows[4 g + c], 128-bit lane l: column 4 l + c of rows 4 g to 4 g + 3
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    const __m512d a = _mm512_castps_pd(other[i]), b = _mm512_castps_pd(other[i + 1]);
    const __m512d c = _mm512_castps_pd(other[i + 2]), d = _mm512_castps_pd(other[i + 3]);
    rows[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    rows[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    rows[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
    rows[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512 even_low = _mm512_shuffle_f32x4(rows[c], rows[4 + c], 0x88);
    const __m512 odd_low = _mm512_shuffle_f32x4(rows[c], rows[4 + c], 0xdd);
    const __m512 even_high = _mm512_shuffle_f32x4(rows[8 + c], rows[12 + c], 0x88);
    const __m512 odd_high = _mm512_shuffle_f32x4(rows[8 + c], rows[12 + c], 0xdd);
    other[c] = _mm512_shuffle_f32x4(even_low, even_high, 0x88);      // column c
    other[8 + c] = _mm512_shuffle_f32x4(even_low, even_high, 0xdd);  // column 8 + c
    other[4 + c] = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);    // column 4 + c
    other[12 + c] = _mm512_shuffle_f32x4(odd_low, odd_high, 0xdd);   // column 12 + c
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) rows[i] = other[i];
}

}  // namespace pdrt
