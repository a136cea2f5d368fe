// The prefix cache holds full pages. What is left of a prompt may lie in a page that another
// request is still filling: a follower of n > 1, or a prompt with the same beginning, finds it
// there.
//
// Such a page is not shared, it is copied, and while the lock is held: no page leaves a slot
// without the lock, so the source stays what it is, no reader has to be counted, and no death can
// leave more behind than a slot that its holder had just been given.
#include <algorithm>

#include "holder.h"

namespace pdrt {
namespace {

uint32_t num_equal(const std::atomic<int32_t>* a, const std::atomic<int32_t>* b, uint32_t most) {
  uint32_t count = 0;
  while (count < most && get(a[count]) == get(b[count])) ++count;
  return count;
}

bool same_page(const LedgerMemory& m, uint32_t a, uint32_t b, uint32_t number) {
  return m.list_of(a)[number].get().pack() == m.list_of(b)[number].get().pack();
}

}  // namespace

PartialHit LedgerState::find_partial_hit(uint32_t slot, uint32_t number) const {
  const uint32_t start = number * m.geometry().page_size;
  // A whole page would have to be published, and is in the index. The last token is computed.
  const uint32_t most = std::min(m.geometry().page_size - 1, num_tokens(slot) - 1 - start);
  PartialHit best;
  for (uint32_t other = 0; other < m.geometry().num_slots; ++other) {
    if (other == slot || !m.slot_words[other].get().active()) continue;
    const SlotRecord& record = m.slots[other];
    const uint32_t computed = get(record.num_computed);
    if (get(record.num_pages) <= number || computed <= start) continue;
    if (number > 0 && !same_page(m, slot, other, number - 1)) continue;  // another prefix
    const PageRef ref = m.list_of(other)[number].get();
    if (m.page_words[ref.page].get().generation != ref.generation) continue;  // a dead one's
    const uint32_t count = num_equal(m.tokens_of(slot) + start, m.tokens_of(other) + start,
                                     std::min(most, computed - start));
    if (count > best.num_tokens) best = {.page = ref.page, .num_tokens = count};
  }
  return best;
}

void Holder::copy_partial_hit(const LedgerState& state, uint32_t slot, const CopyPage& copy) {
  SlotRecord& record = m_.slots[slot];
  const uint32_t num_hits = get(record.num_computed) / geometry_.page_size;
  const PartialHit hit = state.find_partial_hit(slot, num_hits);
  if (hit.num_tokens == 0) return;
  if (!copy(hit.page, m_.list_of(slot)[num_hits].get().page, hit.num_tokens)) return;
  put(record.num_computed, num_hits * geometry_.page_size + hit.num_tokens);
}

}  // namespace pdrt
