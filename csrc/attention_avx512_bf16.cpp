// Paged attention with the dot products of AVX512-BF16.
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

PDRT_BEGIN_AVX512_BF16

#include "attention_pairs_avx512.h"
#include "attention_table.h"

namespace pdrt {

const AttentionKernels& attention_avx512_bf16() { return kAttention<Pairs, 8>; }

}  // namespace pdrt

PDRT_END_AVX512_BF16

#else

namespace pdrt {

// Never chosen here; see cpu_isa.cpp.
const AttentionKernels& attention_avx512_bf16() { return attention_portable(true); }

}  // namespace pdrt

#endif
