// The elementwise operations with AVX2 and FMA.
#include "elementwise.h"

#ifdef __x86_64__

// Outside the region below; see simd_target.h.
#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "bfloat16.h"
#include "simd_target.h"

PDRT_BEGIN_AVX2

#include "elementwise_rows.h"
#include "simd_avx2.h"

namespace pdrt {

const Elementwise& elementwise_avx2(bool is_bfloat16) {
  return is_bfloat16 ? kElementwise<Avx2, bfloat16> : kElementwise<Avx2, float>;
}

}  // namespace pdrt

PDRT_END_AVX2

#else

namespace pdrt {

// Never chosen here; see cpu_isa.cpp.
const Elementwise& elementwise_avx2(bool is_bfloat16) { return elementwise_portable(is_bfloat16); }

}  // namespace pdrt

#endif
