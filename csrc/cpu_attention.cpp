#include "cpu_attention.h"

#include <algorithm>
#include <vector>

#include "check.h"
#include "cpu_isa.h"
#include "thread_pool.h"

namespace pdrt {
namespace {

// Below this many multiply-adds, waking a thread costs more than it saves.
constexpr int64_t kWorthSharing = 1 << 19;

void check_row(const Attention& a, int64_t row) {
  const int64_t num_new = a.num_new(row), seq_len = a.seq_lens[row];
  PDRT_CHECK(num_new >= 0, "cu_seqlens_q falls from ", a.cu_seqlens_q[row], " to ",
             a.cu_seqlens_q[row + 1], " at row ", row);
  PDRT_CHECK(seq_len >= num_new, "seq_lens[", row, "] is ", seq_len, ", less than the row's ",
             num_new, " new tokens");
  const int64_t num_pages = (seq_len + a.page_size - 1) / a.page_size;
  PDRT_CHECK(num_pages <= a.max_pages, "seq_lens[", row, "] is ", seq_len, ", but page_table has ",
             a.max_pages, " pages of ", a.page_size);
  for (int64_t i = 0; i < num_pages; ++i) {
    const int32_t page = a.page_table[row * a.max_pages + i];
    PDRT_CHECK(page >= 0 && page < a.num_pages, "page_table[", row, ", ", i, "] is ", page,
               ", the pool has ", a.num_pages, " pages");
  }
}

void check(const Attention& a) {
  PDRT_CHECK(a.cu_seqlens_q[0] == 0, "cu_seqlens_q begins with ", a.cu_seqlens_q[0], ", not 0");
  PDRT_CHECK(a.cu_seqlens_q[a.num_rows] == a.num_tokens, "cu_seqlens_q ends with ",
             a.cu_seqlens_q[a.num_rows], ", but query has ", a.num_tokens, " tokens");
  PDRT_CHECK(a.window >= 0, "window is ", a.window, "; give 0 for none, or the positions it spans");
  for (int64_t row = 0; row < a.num_rows; ++row) check_row(a, row);
}

// Positions that a tile of so many queries reads, at most.
int64_t most_seen(const Attention& a, int64_t row, int64_t num_queries) {
  const int64_t seq_len = a.seq_lens[row];
  if (a.window == 0 || a.window >= seq_len) return seq_len;
  return std::min(seq_len, a.window + num_queries / a.group());
}

struct Work {
  Tile tile;
  int64_t cost;  // multiply-adds
};

// All tiles, the dearest first, so that no thread is left with a long one at the end.
std::vector<Work> tiles_of(const Attention& a, int64_t width) {
  std::vector<Work> work;
  for (int64_t row = 0; row < a.num_rows; ++row) {
    const int64_t count = a.num_new(row) * a.group();
    for (int64_t first = 0; first < count; first += width) {
      const int64_t taken = std::min(width, count - first);
      const int64_t cost = 2 * taken * most_seen(a, row, taken) * a.head_dim;
      for (int64_t head = 0; head < a.num_kv_heads; ++head)
        work.push_back({{row, head, first, taken}, cost});
    }
  }
  std::stable_sort(work.begin(), work.end(),
                   [](const Work& x, const Work& y) { return x.cost > y.cost; });
  return work;
}

// Aligned to cache lines, which vectors of 16 floats then fill exactly.
float* thread_scratch(const Attention& a) {
  struct alignas(64) Line {
    float floats[16];
  };
  thread_local std::vector<Line> scratch;
  const size_t size = scratch_floats(a) / 16 + 1;
  if (scratch.size() < size) scratch.resize(size);
  return scratch.data()->floats;
}

}  // namespace

void cpu_paged_attention(const Attention& a) {
  check(a);
  const bool wide = cpu_isa() >= Isa::kAvx512;
  const auto attend = wide ? attend_avx512 : attend_portable;
  const std::vector<Work> work = tiles_of(a, wide ? kTileAvx512 : kTilePortable);
  const auto body = [&](int64_t i) { attend(a, work[i].tile, thread_scratch(a)); };
  const auto num_tiles = static_cast<int64_t>(work.size());
  int64_t cost = 0;
  for (const Work& w : work) cost += w.cost;
  if (cost >= kWorthSharing)
    ThreadPool::instance().run(num_tiles, body);
  else
    for (int64_t i = 0; i < num_tiles; ++i) body(i);
}

}  // namespace pdrt
