// Paged attention with AVX-512.
#include "attention.h"

#ifdef __x86_64__

// Outside the region below; see simd_target.h.
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "attention_view.h"
#include "bfloat16.h"
#include "simd_target.h"

PDRT_BEGIN_AVX512

#include "attention_singles.h"
#include "attention_table.h"
#include "simd_avx512.h"

namespace pdrt {

const AttentionKernels& attention_avx512(bool is_bfloat16) {
  return is_bfloat16 ? kAttention<Singles<Avx512, bfloat16>, 8>
                     : kAttention<Singles<Avx512, float>, 8>;
}

}  // namespace pdrt

PDRT_END_AVX512

#else

namespace pdrt {

// Never chosen here; see cpu_isa.cpp.
const AttentionKernels& attention_avx512(bool is_bfloat16) {
  return attention_portable(is_bfloat16);
}

}  // namespace pdrt

#endif
