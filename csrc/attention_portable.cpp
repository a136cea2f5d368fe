// Paged attention for any machine.
#include "attention_singles.h"
#include "attention_table.h"
#include "simd_portable.h"

namespace pdrt {

const AttentionKernels& attention_portable(bool is_bfloat16) {
  return is_bfloat16 ? kAttention<Singles<Portable, bfloat16>, 4>
                     : kAttention<Singles<Portable, float>, 4>;
}

}  // namespace pdrt
