// Four floats at once in the compiler's own vector type: SSE2 on x86-64, NEON on arm64.
//
// Every kernel is written once over such a type (`V`): this one, that of simd_avx2.h or that of
// simd_avx512.h. All give the same set of functions; their bits may differ, since this one has no
// fused multiply-add.
#pragma once

#include <cstdint>
#include <cstring>

#include "bfloat16.h"

namespace pdrt {

struct Portable {
  static constexpr int kLanes = 4;
  typedef float Floats __attribute__((vector_size(16)));
  typedef int32_t Ints __attribute__((vector_size(16)));
  using Mask = Ints;  // all bits of a lane set, or none

  static Floats set(float x) { return Floats{x, x, x, x}; }
  static Floats load(const float* p) {
    Floats x;
    std::memcpy(&x, p, sizeof x);
    return x;
  }
  static Floats load(const bfloat16* p) {
    return Floats{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])};
  }
  // Lane i: p[2 i] in even, p[2 i + 1] in odd.
  static void load_pairs(const bfloat16* p, Floats& even, Floats& odd) {
    even = Floats{to_float(p[0]), to_float(p[2]), to_float(p[4]), to_float(p[6])};
    odd = Floats{to_float(p[1]), to_float(p[3]), to_float(p[5]), to_float(p[7])};
  }
  static void store(float* p, Floats x) { std::memcpy(p, &x, sizeof x); }
  static void store(bfloat16* p, Floats x) {
    for (int i = 0; i < kLanes; ++i) from_float(x[i], p + i);
  }
  // The first n lanes; the rest are 0, and their memory is neither read nor written.
  template <typename T>
  static Floats load_first(const T* p, int n) {
    Floats x = set(0);
    for (int i = 0; i < n; ++i) x[i] = to_float(p[i]);
    return x;
  }
  template <typename T>
  static void store_first(T* p, Floats x, int n) {
    for (int i = 0; i < n; ++i) from_float(x[i], p + i);
  }

  static Floats fma(Floats a, Floats b, Floats c) { return a * b + c; }
  static Floats fma_where(Mask mask, Floats a, Floats b, Floats c) {
    return select(mask, a * b + c, c);
  }
  // The second operand if either is a NaN.
  static Floats max(Floats a, Floats b) { return select(a > b, a, b); }
  static Floats min(Floats a, Floats b) { return select(a < b, a, b); }
  static Floats select(Mask mask, Floats yes, Floats no) {
    return reinterpret_cast<Floats>((mask & reinterpret_cast<Ints>(yes)) |
                                    (~mask & reinterpret_cast<Ints>(no)));
  }
  // Of all lanes. The largest of a NaN and others is any of them.
  static float largest(Floats x) {
    const float low = x[0] > x[1] ? x[0] : x[1], high = x[2] > x[3] ? x[2] : x[3];
    return low > high ? low : high;
  }
  static float total(Floats x) { return (x[0] + x[1]) + (x[2] + x[3]); }
  static Floats div(Floats a, Floats b) { return a / b; }

  static Mask first(int n) { return Ints{0, 1, 2, 3} < Ints{n, n, n, n}; }
  // rows[i][j] -> rows[j][i]
  static void transpose(Floats (&rows)[kLanes]) {
    Floats columns[kLanes];
    for (int i = 0; i < kLanes; ++i)
      columns[i] = Floats{rows[0][i], rows[1][i], rows[2][i], rows[3][i]};
    for (int i = 0; i < kLanes; ++i) rows[i] = columns[i];
  }
  static Ints load_ints(const int32_t* p) {
    Ints x;
    std::memcpy(&x, p, sizeof x);
    return x;
  }
  static Mask greater(Ints a, int32_t b) { return a > Ints{b, b, b, b}; }
  static Mask differs(Floats a, Floats b) { return a != b; }  // also where one is a NaN

  // Four bytes in each lane, for dot: unsigned ones from memory, or the same signed ones in all.
  struct Quads {
    Ints bytes[4];
  };
  static Quads load_unsigned(const void* p) {
    const Ints words = load_ints(static_cast<const int32_t*>(p));
    return {{words & 0xff, words >> 8 & 0xff, words >> 16 & 0xff, words >> 24 & 0xff}};
  }
  static Quads set_signed(const int8_t* p) {
    return {{set_ints(p[0]), set_ints(p[1]), set_ints(p[2]), set_ints(p[3])}};
  }
  // sum + the four products of x, unsigned, and y, signed
  static Ints dot(Quads x, Quads y, Ints sum) {
    for (int i = 0; i < 4; ++i) sum += x.bytes[i] * y.bytes[i];
    return sum;
  }
  static Ints set_ints(int32_t x) { return Ints{x, x, x, x}; }
  static Floats to_floats(Ints x) { return __builtin_convertvector(x, Floats); }
  // Whole numbers from -128 to 127.
  static void store_bytes(int8_t* p, Floats x) {
    for (int i = 0; i < kLanes; ++i) p[i] = static_cast<int8_t>(x[i]);
  }

  static Floats round(Floats x) {
    const Floats magic = set(0x1.8p23f);  // adding it leaves no bits for a fraction
    return (x + magic) - magic;
  }
  // x * 2^n for whole n <= 128; 0 for n < -126, infinite for n = 128.
  static Floats scale(Floats x, Floats n) {
    Floats clamped = max(set(-127), n);
    Ints bits = (__builtin_convertvector(clamped, Ints) + 127) << 23;
    return x * reinterpret_cast<Floats>(bits);
  }
};

}  // namespace pdrt
