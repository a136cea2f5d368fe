#include "ledger_state.h"

namespace pdrt {
namespace {

enum ListNumber : uint32_t { FREE_LIST, CACHED_LIST, QUARANTINED_LIST };

PageList list_at(const LedgerMemory& m, ListNumber number, uint32_t* count) {
  return PageList(m.links, m.geometry().num_page_ids() + number, count);
}

}  // namespace

LedgerState::LedgerState(const LedgerMemory& memory)
    : m(memory),
      index(memory),
      free(list_at(memory, FREE_LIST, &memory.header->derived.num_free)),
      cached(list_at(memory, CACHED_LIST, &memory.header->derived.num_cached)),
      quarantined(list_at(memory, QUARANTINED_LIST, &memory.header->derived.num_quarantined)),
      derived(memory.header->derived) {}

// -- words ------------------------------------------------------------------------------

void LedgerState::set_word(uint32_t slot, Phase phase, uint32_t holder, Marks marks,
                           uint32_t bump) {
  SlotWord seen = m.slot_words[slot].get();
  SlotWord wanted;
  do {
    wanted = {.phase = phase,
              .abort = seen.abort && marks == Marks::KEEP_ABORT,
              .holder = holder,
              .generation = seen.generation + bump};
  } while (!m.slot_words[slot].swap(seen, wanted));
}

void LedgerState::mark_victim(uint32_t slot) {
  SlotWord seen = m.slot_words[slot].get();
  SlotWord wanted;
  do {
    wanted = seen;
    wanted.victim = true;
  } while (!m.slot_words[slot].swap(seen, wanted));
}

void LedgerState::pass(uint32_t slot, Point point) {
  if (!has_passed(slot, point)) {
    put(m.slots[slot].times[static_cast<size_t>(point)], monotonic_seconds());
  }
}

bool LedgerState::has_passed(uint32_t slot, Point point) const {
  return get(m.slots[slot].times[static_cast<size_t>(point)]) != 0.0;
}

void LedgerState::count(std::atomic<uint64_t>& counter, uint64_t more) {
  put(counter, counter.load(std::memory_order_relaxed) + more);
}

// -- slots ------------------------------------------------------------------------------

uint32_t LedgerState::num_tokens(uint32_t slot) const {
  return get(m.slots[slot].num_prompt_tokens) + m.lengths[slot].get().num_output_tokens;
}

bool LedgerState::list_is_current(uint32_t slot) const {
  for (uint32_t i = 0; i < get(m.slots[slot].num_pages); ++i) {
    const PageRef ref = m.list_of(slot)[i].get();
    if (m.page_words[ref.page].get().generation != ref.generation) return false;
  }
  return true;
}

bool LedgerState::is_oldest(uint32_t slot) const {
  for (uint32_t other = 0; other < m.geometry().num_slots; ++other) {
    if (m.slot_words[other].get().active() && get(m.ranks[other]) < get(m.ranks[slot]))
      return false;
  }
  return true;
}

bool LedgerState::is_oldest_queued(uint32_t slot) const {
  for (uint32_t other = 0; other < m.geometry().num_slots; ++other) {
    const SlotWord word = m.slot_words[other].get();
    if (word.phase == Phase::QUEUED && !word.abort && get(m.ranks[other]) < get(m.ranks[slot])) {
      return false;
    }
  }
  return true;
}

std::optional<uint32_t> LedgerState::find_victim() const {
  std::optional<uint32_t> youngest;
  for (uint32_t slot = 0; slot < m.geometry().num_slots; ++slot) {
    if (!m.slot_words[slot].get().active()) continue;
    if (!youngest || get(m.ranks[slot]) > get(m.ranks[*youngest])) youngest = slot;
  }
  // The oldest goes on whatever happens, and a marked one is on its way out already.
  if (!youngest || is_oldest(*youngest) || m.slot_words[*youngest].get().marked()) return {};
  return youngest;
}

uint32_t LedgerState::num_decoding() const {
  uint32_t count = 0;
  for (uint32_t slot = 0; slot < m.geometry().num_slots; ++slot) {
    count += m.slot_words[slot].get().phase == Phase::DECODING;
  }
  return count;
}

// -- pages ------------------------------------------------------------------------------

std::span<const uint32_t> LedgerState::find_hits(uint32_t slot, uint32_t most) {
  const uint32_t page_size = m.geometry().page_size;
  Digest parent = m.header->root;
  uint32_t count = 0;
  while (count < most) {
    const uint32_t page = index.find(parent, m.tokens_of(slot) + size_t{count} * page_size);
    if (page == 0) break;
    put(m.scratch[count++], page);
    parent = m.digests[page];
  }
  return {m.scratch, count};
}

bool LedgerState::has_room(uint32_t need, std::span<const uint32_t> hits) const {
  uint32_t available = free.count() + cached.count();
  for (const uint32_t page : hits) available -= m.readers[page] == 0;
  return available >= need + num_decoding();
}

void LedgerState::pin(std::span<const uint32_t> pages) {
  for (const uint32_t page : pages) add_reader(page);
}

void LedgerState::evict_oldest() {
  const uint32_t page = cached.front();
  // FILLED has no writer left, so it needs no quarantine: one store drops, un-indexes and renews
  // it.
  const PageWord word = m.page_words[page].get();
  m.page_words[page].put({.state = PageState::FREE, .generation = word.generation + 1});
  index.erase(page);
  cached.remove(page);
  free.push_front(page);
  count(m.header->counters.evicted);
}

void LedgerState::append(uint32_t slot, uint32_t page) {
  const uint32_t at = get(m.slots[slot].num_pages);
  m.list_of(slot)[at].put({.page = page, .generation = m.page_words[page].get().generation});
  put(m.slots[slot].num_pages, at + 1);
}

void LedgerState::list_hits(uint32_t slot, std::span<const uint32_t> pages) {
  for (const uint32_t page : pages) append(slot, page);
}

void LedgerState::list_free(uint32_t slot, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t page = free.front();
    append(slot, page);
    const PageWord word = m.page_words[page].get();
    m.page_words[page].put({.state = PageState::WRITING, .generation = word.generation});
    free.remove(page);
    add_reader(page);
  }
}

void LedgerState::publish(uint32_t slot, uint32_t number) {
  const Packed<PageRef>* list = m.list_of(slot);
  const auto [page, generation] = list[number].get();
  const Digest parent = number == 0 ? m.header->root : m.digests[list[number - 1].get().page];
  index.describe(page, parent, m.tokens_of(slot) + size_t{number} * m.geometry().page_size);
  const bool first = index.find(m.digests[page]) == 0;
  m.page_words[page].put({.state = PageState::FILLED, .indexed = first, .generation = generation});
  if (first) index.insert(page);
}

void LedgerState::add_reader(uint32_t page) {
  if (m.readers[page] == 0 && m.page_words[page].get().state == PageState::FILLED) {
    cached.remove(page);
  }
  put(m.readers[page], m.readers[page] + 1);
}

void LedgerState::drop_reader(uint32_t page) {
  put(m.readers[page], m.readers[page] - 1);
  if (m.readers[page] != 0 || m.page_words[page].get().state != PageState::FILLED) return;
  put(derived.clock, derived.clock + 1);
  put(m.last_use[page], derived.clock);
  cached.push_back(page);
}

void LedgerState::release(uint32_t slot, Tag tag, Filled filled) {
  const Packed<PageRef>* list = m.list_of(slot);
  // From the tail: of one prefix the later pages are evicted first.
  for (uint32_t i = get(m.slots[slot].num_pages); i-- > 0;) {
    const auto [page, generation] = list[i].get();
    const PageWord word = m.page_words[page].get();
    if (word.generation != generation) continue;  // a dead holder began this release
    const bool stays = word.indexed && filled == Filled::KEPT;
    const bool leaves = word.state == PageState::WRITING || (!stays && m.readers[page] == 1);
    if (leaves) {
      m.tags[page].put(tag);
      m.page_words[page].put({.state = PageState::QUARANTINED, .generation = generation + 1});
      if (word.indexed) index.erase(page);
      quarantined.push_back(page);
    }
    drop_reader(page);
  }
  put(m.slots[slot].num_pages, 0);
}

void LedgerState::drain(uint32_t instance, uint64_t step) {
  for (uint32_t page = quarantined.front(); page != quarantined.end();) {
    const uint32_t next = quarantined.next(page);
    const Tag tag = m.tags[page].get();
    if (tag.instance == instance && tag.step <= step) {
      const PageWord word = m.page_words[page].get();
      m.page_words[page].put({.state = PageState::FREE, .generation = word.generation});
      quarantined.remove(page);
      free.push_front(page);
    }
    page = next;
  }
}

void LedgerState::put_back(uint32_t slot, Tag tag, uint64_t read, Filled filled) {
  release(slot, tag, filled);
  drain(tag.instance, read);
  const bool finished = m.lengths[slot].get().finished();
  if (finished) pass(slot, Point::FINISHED);
  SlotWord seen = m.slot_words[slot].get();
  SlotWord wanted;
  do {  // ABORT may land until the last moment
    wanted = {.holder = NOBODY, .generation = seen.generation + (finished ? 0 : 1)};
    wanted.phase = finished ? Phase::FINISHED : seen.abort ? Phase::EMPTY : Phase::QUEUED;
    wanted.abort = seen.abort && finished;
  } while (!m.slot_words[slot].swap(seen, wanted));
  // From here on an EMPTY slot may be claimed again: only counters follow.
  if (wanted.phase == Phase::FINISHED) count(m.header->counters.finished);
  if (wanted.phase == Phase::EMPTY) count(m.header->counters.aborted);
}

void LedgerState::take_back(uint32_t slot, uint32_t holder) {
  set_word(slot, Phase::PREEMPTED, holder);
  put(derived.num_sealed, derived.num_sealed - 1);
  put_back(slot, {.instance = holder, .step = 0}, 0);
}

}  // namespace pdrt
