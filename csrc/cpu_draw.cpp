// Chooses the tokens of all rows, on several threads where that pays.
#include "cpu_isa.h"
#include "draw.h"
#include "thread_pool.h"

namespace pdrt {
namespace {

// Below this many logits, waking a thread costs more than it saves.
constexpr int64_t kWorthSharing = 1 << 17;

auto draw_for(Isa isa) {
  if (isa >= Isa::kAvx512) return draw_avx512;
  if (isa >= Isa::kAvx2) return draw_avx2;
  return draw_portable;
}

}  // namespace

void cpu_draw(const DrawRow* rows, const float* logits, int64_t num_rows, int64_t vocab_size,
              Drawn* drawn) {
  const auto draw = draw_for(cpu_isa());
  const auto body = [&](int64_t i) {
    thread_local DrawScratch scratch;
    drawn[i] = draw(rows[i], logits + i * vocab_size, vocab_size, scratch);
  };
  if (num_rows * vocab_size >= kWorthSharing) return ThreadPool::instance().run(num_rows, body);
  for (int64_t i = 0; i < num_rows; ++i) body(i);
}

}  // namespace pdrt
