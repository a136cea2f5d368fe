// Runs the rows of an elementwise operation, on several threads where that pays.
#include <algorithm>

#include "check.h"
#include "cpu_isa.h"
#include "elementwise.h"
#include "thread_pool.h"

namespace pdrt {
namespace {

// Below this many elements, waking a thread costs more than it saves.
constexpr int64_t kWorthSharing = 1 << 18;
constexpr int64_t kRowsPerItem = 16;

const Elementwise& table(bool is_bfloat16) {
  const Isa isa = cpu_isa();
  if (isa >= Isa::kAvx512) return elementwise_avx512(is_bfloat16);
  if (isa >= Isa::kAvx2) return elementwise_avx2(is_bfloat16);
  return elementwise_portable(is_bfloat16);
}

template <typename Args>
void run_rows(void (*row)(const Args&, int64_t), const Args& args, int64_t num_rows, int64_t size) {
  const auto item = [&](int64_t i) {
    const int64_t end = std::min(num_rows, (i + 1) * kRowsPerItem);
    for (int64_t r = i * kRowsPerItem; r < end; ++r) row(args, r);
  };
  const int64_t num_items = (num_rows + kRowsPerItem - 1) / kRowsPerItem;
  if (num_rows * size >= kWorthSharing) return ThreadPool::instance().run(num_items, item);
  for (int64_t i = 0; i < num_items; ++i) item(i);
}

void check(const Rope& rope) {
  const int64_t num_slots = rope.num_pages * rope.page_size;
  for (int64_t token = 0; token < rope.num_tokens; ++token) {
    const int64_t position = rope.positions[token], slot = rope.slot_mapping[token];
    PDRT_CHECK(position >= 0 && position < rope.max_len, "positions[", token, "] is ", position,
               ", cos_sin has ", rope.max_len, " positions");
    PDRT_CHECK(slot < num_slots, "slot_mapping[", token, "] is ", slot, ", the pool has ",
               num_slots, " slots");
  }
}

}  // namespace

void cpu_rms_norm(const Norm& norm, bool is_bfloat16) {
  run_rows(table(is_bfloat16).rms_norm, norm, norm.num_rows, norm.size);
}

void cpu_layer_norm(const Norm& norm, bool is_bfloat16) {
  run_rows(table(is_bfloat16).layer_norm, norm, norm.num_rows, norm.size);
}

void cpu_silu_and_mul(const Activation& activation, bool is_bfloat16) {
  run_rows(table(is_bfloat16).silu_and_mul, activation, activation.num_rows, activation.size);
}

void cpu_gelu(const Activation& activation, bool is_bfloat16) {
  run_rows(table(is_bfloat16).gelu, activation, activation.num_rows, activation.size);
}

void cpu_gelu_tanh(const Activation& activation, bool is_bfloat16) {
  run_rows(table(is_bfloat16).gelu_tanh, activation, activation.num_rows, activation.size);
}

void cpu_gelu_tanh_and_mul(const Activation& activation, bool is_bfloat16) {
  run_rows(table(is_bfloat16).gelu_tanh_and_mul, activation, activation.num_rows, activation.size);
}

void cpu_rope_kv_write(const Rope& rope, bool is_bfloat16) {
  check(rope);
  const int64_t size = (rope.num_heads + 2 * rope.num_kv_heads) * rope.head_dim;
  run_rows(table(is_bfloat16).rope, rope, rope.num_tokens, size);
}

}  // namespace pdrt
