// Linear layers for any machine.
#include "linear_run.h"
#include "simd_portable.h"

namespace pdrt {

void linear_portable(const Linear& linear, const LinearBlock& block, float* scratch) {
  run_linear<Portable>(linear, block, scratch);
}

void quantize_portable(const Linear& linear, int64_t first_row, int64_t end_row,
                       InputGroup* groups) {
  Quantize<Portable>::rows(linear, first_row, end_row, groups);
}

}  // namespace pdrt
