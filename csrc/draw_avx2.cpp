// Choosing tokens with AVX2 and FMA.
#include "draw.h"

#ifdef __x86_64__

// Outside the region below; see simd_target.h.
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "bfloat16.h"
#include "philox.h"
#include "simd_target.h"

PDRT_BEGIN_AVX2

#include "draw_rows.h"
#include "simd_avx2.h"

namespace pdrt {

Drawn draw_avx2(const DrawRow& row, const float* logits, int64_t vocab_size, DrawScratch& scratch) {
  return DrawToken<Avx2>::draw(row, logits, vocab_size, scratch);
}

}  // namespace pdrt

PDRT_END_AVX2

#else

namespace pdrt {

// Never chosen here; see cpu_isa.cpp.
Drawn draw_avx2(const DrawRow& row, const float* logits, int64_t vocab_size, DrawScratch& scratch) {
  return draw_portable(row, logits, vocab_size, scratch);
}

}  // namespace pdrt

#endif
