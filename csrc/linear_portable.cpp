// Linear layers for any machine.
#include "linear_tile.h"
#include "simd_portable.h"

namespace pdrt {

void linear_portable(const Linear& linear, const LinearBlock& block, float* scratch) {
  run_linear<Portable>(linear, block, scratch);
}

}  // namespace pdrt
