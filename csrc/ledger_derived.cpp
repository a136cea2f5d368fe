// Derived state, recomputed from the truth: at the ledger's creation, and by the first taker of the
// lock after its holder died. Nothing here allocates, and all of it may be cut and run again.
#include <algorithm>

#include "ledger_state.h"

namespace pdrt {

void LedgerState::rebuild() {
  recount_readers();
  for (uint32_t page = 1; page <= m.geometry().num_pages; ++page) {
    const PageWord word = m.page_words[page].get();
    if (word.state == PageState::FREE && m.readers[page] > 0) {
      m.page_words[page].put({.state = PageState::WRITING, .generation = word.generation});
    }
  }
  sort_pages_into_lists();
  restore_order_of_use();
  uint32_t num_sealed = 0;
  for (uint32_t slot = 0; slot < m.geometry().num_slots; ++slot) {
    num_sealed += m.slot_words[slot].get().phase == Phase::SEALED;
  }
  put(derived.num_sealed, num_sealed);
}

void LedgerState::recount_readers() {
  for (uint32_t page = 1; page <= m.geometry().num_pages; ++page) put(m.readers[page], 0);
  for (uint32_t slot = 0; slot < m.geometry().num_slots; ++slot) {
    for (uint32_t i = 0; i < get(m.slots[slot].num_pages); ++i) {
      const auto [page, generation] = m.list_of(slot)[i].get();
      // An entry that a release has overtaken counts no more.
      if (m.page_words[page].get().generation != generation) continue;
      put(m.readers[page], m.readers[page] + 1);
    }
  }
}

void LedgerState::sort_pages_into_lists() {
  index.clear();
  free.clear();
  cached.clear();
  quarantined.clear();
  for (uint32_t page = 1; page <= m.geometry().num_pages; ++page) {
    const PageWord word = m.page_words[page].get();
    if (word.indexed) index.insert(page);
    if (word.state == PageState::FREE) free.push_back(page);
    if (word.state == PageState::QUARANTINED) quarantined.push_back(page);
  }
}

void LedgerState::restore_order_of_use() {
  uint32_t count = 0;
  uint64_t clock = 0;
  for (uint32_t page = 1; page <= m.geometry().num_pages; ++page) {
    clock = std::max(clock, m.last_use[page]);
    if (m.page_words[page].get().state == PageState::FILLED && m.readers[page] == 0) {
      put(m.scratch[count++], page);
    }
  }
  const auto older = [this](uint32_t a, uint32_t b) { return m.last_use[a] < m.last_use[b]; };
  std::sort(m.scratch, m.scratch + count, older);
  for (uint32_t i = 0; i < count; ++i) cached.push_back(m.scratch[i]);
  put(derived.clock, clock);
}

}  // namespace pdrt
