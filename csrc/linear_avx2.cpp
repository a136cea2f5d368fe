// Linear layers with AVX2 and FMA.
#include "cpu_linear.h"

#ifdef __x86_64__

// Outside the region below; see simd_target.h.
#include <immintrin.h>

#include <algorithm>
#include <type_traits>

#include "bfloat16.h"
#include "simd_target.h"

PDRT_BEGIN_AVX2

#include "linear_run.h"
#include "simd_avx2.h"

namespace pdrt {

void linear_avx2(const Linear& linear, const LinearBlock& block, float* scratch) {
  run_linear<Avx2>(linear, block, scratch);
}

void quantize_avx2(const Linear& linear, int64_t first_row, int64_t end_row, InputGroup* groups) {
  Quantize<Avx2>::rows(linear, first_row, end_row, groups);
}

}  // namespace pdrt

PDRT_END_AVX2

#else

namespace pdrt {

// Never chosen here; see cpu_isa.cpp.
void linear_avx2(const Linear& linear, const LinearBlock& block, float* scratch) {
  linear_portable(linear, block, scratch);
}

void quantize_avx2(const Linear& linear, int64_t first_row, int64_t end_row, InputGroup* groups) {
  quantize_portable(linear, first_row, end_row, groups);
}

}  // namespace pdrt

#endif
