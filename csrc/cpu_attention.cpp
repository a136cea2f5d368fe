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
// A tile with more than this part of all the work may be split.
constexpr int64_t kFineParts = 8;

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

const AttentionKernels& kernels_for(const Attention& a) {
  const Isa isa = cpu_isa();
  if (isa >= Isa::kAvx512Bf16 && a.is_bfloat16 && a.head_dim % 2 == 0)
    return attention_avx512_bf16();
  if (isa >= Isa::kAvx512) return attention_avx512(a.is_bfloat16);
  if (isa >= Isa::kAvx2) return attention_avx2(a.is_bfloat16);
  return attention_portable(a.is_bfloat16);
}

// Cache lines, which vectors of 16 floats fill exactly.
class Floats {
 public:
  float* at_least(int64_t count) {
    const size_t size = count / 16 + 1;
    if (lines_.size() < size) lines_.resize(size);
    return lines_.data()->floats;
  }

 private:
  struct alignas(64) Line {
    float floats[16];
  };
  std::vector<Line> lines_;
};

// What one thread computes at a time: a tile, or one range of it.
struct Work {
  Tile tile;
  int64_t cost;   // multiply-adds
  int64_t start;  // of the range
  int64_t state;  // where the range's goes; kWhole: all of the tile
};
constexpr int64_t kWhole = -1;

// A tile whose ranges are computed apart: their states are from `state` on.
struct Split {
  Tile tile;
  int64_t state, num_ranges;
};

// The work of one call. Its memory is kept from call to call.
class Schedule {
 public:
  void plan(const Attention& a, const AttentionKernels& kernels) {
    work_.clear();
    splits_.clear();
    num_states_ = cost_ = 0;
    cut(a, kernels.width);
    if (!is_worth_sharing()) return;
    split(a, kernels.most_few);
    std::sort(work_.begin(), work_.end(),
              [](const Work& x, const Work& y) { return x.cost > y.cost; });
  }

  void run(const Attention& a, const AttentionKernels& kernels) {
    const int64_t apart = state_floats(a);
    float* states = states_.at_least(num_states_ * apart);
    const auto body = [&](int64_t i) {
      const Work& w = work_[i];
      thread_local Floats floats;
      float* scratch = floats.at_least(scratch_floats(a));
      if (w.state == kWhole) return kernels.tile(a, w.tile, scratch);
      kernels.range(a, w.tile, w.start, states + w.state * apart, scratch);
    };
    const auto count = static_cast<int64_t>(work_.size());
    if (is_worth_sharing())
      ThreadPool::instance().run(count, body);
    else
      for (int64_t i = 0; i < count; ++i) body(i);
    float* scratch = scratch_.at_least(scratch_floats(a));
    for (const Split& s : splits_)
      kernels.join(a, s.tile, states + s.state * apart, s.num_ranges, scratch);
  }

 private:
  bool is_worth_sharing() const { return cost_ >= kWorthSharing; }

  static int64_t cost_of(const Attention& a, const Tile& tile, int64_t num_positions) {
    return 2 * tile.count * num_positions * a.head_dim;
  }

  void cut(const Attention& a, int64_t width) {
    for (int64_t row = 0; row < a.num_rows; ++row) {
      const int64_t count = a.num_new(row) * a.group();
      for (int64_t first = 0; first < count; first += width) {
        Tile tile{row, 0, first, std::min(width, count - first)};
        const int64_t seen = a.limit(tile, tile.count - 1) - a.first(tile, 0);
        for (; tile.kv_head < a.num_kv_heads; ++tile.kv_head) {
          work_.push_back({tile, cost_of(a, tile, seen), 0, kWhole});
          cost_ += work_.back().cost;
        }
      }
    }
  }

  // Replaces tiles that are so large a part of all the work that a thread might end up with one
  // while the others have none.
  void split(const Attention& a, int64_t most_few) {
    const size_t num_tiles = work_.size();
    for (size_t i = 0; i < num_tiles; ++i) {
      const Tile tile = work_[i].tile;
      const int64_t begin = a.first(tile, 0), end = a.limit(tile, tile.count - 1);
      const int64_t num_ranges = (end + kRange - 1) / kRange - begin / kRange;
      if (tile.count > most_few || num_ranges < 2 || work_[i].cost < cost_ / kFineParts) continue;
      splits_.push_back({tile, num_states_, num_ranges});
      for (int64_t start = begin, next; start < end; start = next) {
        next = std::min(end, start / kRange * kRange + kRange);
        const Work part{tile, cost_of(a, tile, next - start), start, num_states_++};
        if (start == begin)
          work_[i] = part;
        else
          work_.push_back(part);
      }
    }
  }

  std::vector<Work> work_;
  std::vector<Split> splits_;
  int64_t num_states_ = 0, cost_ = 0;
  Floats states_, scratch_;
};

}  // namespace

void cpu_paged_attention(const Attention& a) {
  check(a);
  thread_local Schedule schedule;
  const AttentionKernels& kernels = kernels_for(a);
  schedule.plan(a, kernels);
  schedule.run(a, kernels);
}

}  // namespace pdrt
