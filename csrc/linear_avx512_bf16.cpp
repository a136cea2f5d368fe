// Linear layers with the dot products of AVX512-BF16 and VNNI; float32 as with AVX-512.
#include "cpu_linear.h"

#ifdef __x86_64__

// Outside the region below; see simd_target.h.
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "bfloat16.h"
#include "simd_target.h"

PDRT_BEGIN_AVX512_BF16

#include "linear_int8.h"
#include "linear_tile.h"
#include "simd_avx512.h"

namespace pdrt {
namespace {

// A type of its own, so that no function compiled here passes for one for plain AVX-512.
struct Avx512Bf16 : Avx512 {
  using Quads = __m512i;

  static Quads load_unsigned(const void* p) { return _mm512_loadu_si512(p); }
  static Quads set_signed(const int8_t* p) {
    int32_t bytes;
    std::memcpy(&bytes, p, sizeof bytes);
    return _mm512_set1_epi32(bytes);
  }
  static Ints dot(Quads x, Quads y, Ints sum) { return _mm512_dpbusd_epi32(sum, x, y); }
};

// Two inputs a step: sum += x[k] w[k] + x[k + 1] w[k + 1], as vdpbf16ps rounds it.
struct DotProduct {
  using X = bfloat16;
  static constexpr int kRows = 8;
  static constexpr int kColumns = kPanel;

  static int64_t row_size(const PackedShape& shape) { return shape.num_inputs; }

  static const bfloat16* rows(const Linear& linear, const LinearBlock& block, float*) {
    return static_cast<const bfloat16*>(linear.x) + block.first_row * linear.shape.num_inputs;
  }

  template <int kCount, typename Fetch>
  static void run(const bfloat16* x, int64_t size, const void* panel, Fetch& fetch, float* sums) {
    __m512 acc[kCount][2] = {};
    const char* weight = static_cast<const char*>(panel);
    for (int64_t k = 0; k + 1 < size; k += 2, weight += kPanel * 4)
      add<kCount>(weight, fetch, acc, [&](int r) { return pair(x + r * size + k); });
    if (size % 2)
      add<kCount>(weight, fetch, acc, [&](int r) { return int32_t{x[r * size + size - 1].bits}; });
#pragma GCC unroll 8
    for (int r = 0; r < kCount; ++r) {
      _mm512_store_ps(sums + r * kPanel, acc[r][0]);
      _mm512_store_ps(sums + r * kPanel + 16, acc[r][1]);
    }
  }

 private:
  static int32_t pair(const bfloat16* x) {
    int32_t both;
    std::memcpy(&both, x, sizeof both);
    return both;
  }

  template <int kCount, typename Fetch, typename Pair>
  static inline __attribute__((always_inline)) void add(const char* weight, Fetch& fetch,
                                                        __m512 (&acc)[kCount][2], Pair pair) {
    fetch.step();
    const auto low = (__m512bh)_mm512_loadu_si512(weight);
    const auto high = (__m512bh)_mm512_loadu_si512(weight + 64);
#pragma GCC unroll 8
    for (int r = 0; r < kCount; ++r) {
      const auto inputs = (__m512bh)_mm512_set1_epi32(pair(r));
      acc[r][0] = _mm512_dpbf16_ps(acc[r][0], low, inputs);
      acc[r][1] = _mm512_dpbf16_ps(acc[r][1], high, inputs);
    }
  }
};

}  // namespace

void linear_avx512_bf16(const Linear& linear, const LinearBlock& block, float* scratch) {
  using V = Avx512Bf16;
  const PackedShape& shape = linear.shape;
  if (shape.is_int8 && shape.is_bfloat16)
    LinearTiles<V, bfloat16, Int8Product<V>>::run(linear, block, scratch);
  else if (shape.is_int8)
    LinearTiles<V, float, Int8Product<V>>::run(linear, block, scratch);
  else if (shape.is_bfloat16)
    LinearTiles<V, bfloat16, DotProduct>::run(linear, block, scratch);
  else
    linear_avx512(linear, block, scratch);
}

}  // namespace pdrt

PDRT_END_AVX512_BF16

#else

namespace pdrt {

// Never chosen here; see cpu_isa.cpp.
void linear_avx512_bf16(const Linear& linear, const LinearBlock& block, float* scratch) {
  linear_portable(linear, block, scratch);
}

}  // namespace pdrt

#endif
