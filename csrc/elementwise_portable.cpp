// The elementwise operations for any machine.
#include "elementwise_rows.h"
#include "simd_portable.h"

namespace pdrt {

const Elementwise& elementwise_portable(bool is_bfloat16) {
  return is_bfloat16 ? kElementwise<Portable, bfloat16> : kElementwise<Portable, float>;
}

}  // namespace pdrt
