// Choosing tokens on any machine.
#include "draw_rows.h"
#include "simd_portable.h"

namespace pdrt {

Drawn draw_portable(const DrawRow& row, const float* logits, int64_t vocab_size,
                    DrawScratch& scratch) {
  return DrawToken<Portable>::draw(row, logits, vocab_size, scratch);
}

}  // namespace pdrt
