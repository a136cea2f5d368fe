// Linear layers with AVX-512.
#include "cpu_linear.h"

#ifdef __x86_64__

// Outside the region below; see simd_target.h.
#include <immintrin.h>

#include <algorithm>
#include <type_traits>

#include "bfloat16.h"
#include "simd_target.h"

PDRT_BEGIN_AVX512

#include "linear_run.h"
#include "simd_avx512.h"

namespace pdrt {

void linear_avx512(const Linear& linear, const LinearBlock& block, float* scratch) {
  run_linear<Avx512>(linear, block, scratch);
}

void quantize_avx512(const Linear& linear, int64_t first_row, int64_t end_row, InputGroup* groups) {
  Quantize<Avx512>::rows(linear, first_row, end_row, groups);
}

}  // namespace pdrt

PDRT_END_AVX512

#else

namespace pdrt {

// Never chosen here; see cpu_isa.cpp.
void linear_avx512(const Linear& linear, const LinearBlock& block, float* scratch) {
  linear_portable(linear, block, scratch);
}

void quantize_avx512(const Linear& linear, int64_t first_row, int64_t end_row, InputGroup* groups) {
  quantize_portable(linear, first_row, end_row, groups);
}

}  // namespace pdrt

#endif
