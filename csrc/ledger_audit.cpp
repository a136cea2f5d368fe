#include "ledger_audit.h"

#include <algorithm>

namespace pdrt {
namespace {

// How active the slot is that a page is counted under; the highest wins.
enum Class : uint32_t { UNLISTED, PREFILLING, SEALED, DECODING };

Class class_of(Phase phase) {
  switch (phase) {
    case Phase::PREFILLING:
      return PREFILLING;
    case Phase::DECODING:
      return DECODING;
    case Phase::SEALED:
    case Phase::PREEMPTED:  // on its way out of SEALED
      return SEALED;
    default:
      return UNLISTED;
  }
}

class Auditor {
 public:
  Auditor(const LedgerState& state, FindingList& findings)
      : state_(state),
        m_(state.m),
        readers_(m_.scratch),
        classes_(m_.scratch_classes),
        findings_(findings) {}

  PageCounts run() {
    for (uint32_t page = 1; page <= m_.geometry().num_pages; ++page) {
      put(readers_[page], 0);
      put(classes_[page], UNLISTED);
    }
    for (uint32_t slot = 0; slot < m_.geometry().num_slots; ++slot) check_slot(slot);
    for (uint32_t page = 1; page <= m_.geometry().num_pages; ++page) check_page(page);
    check_list(state_.free, PageState::FREE, "the free list");
    check_list(state_.cached, PageState::FILLED, "the cached list");
    check_list(state_.quarantined, PageState::QUARANTINED, "the quarantined list");
    counts_.total = m_.geometry().num_pages;
    check_totals();
    return counts_;
  }

 private:
  void check_slot(uint32_t slot) {
    const SlotWord word = m_.slot_words[slot].get();
    const bool held = word.phase == Phase::PREFILLING || word.phase == Phase::DECODING ||
                      word.phase == Phase::PREEMPTED;
    if (held != (word.holder != NOBODY))
      findings_.add("wrong holder of slot, holder", slot, word.holder);
    num_sealed_ += word.phase == Phase::SEALED;
    if (word.phase == Phase::QUEUED && m_.lengths[slot].get().finished()) {
      findings_.add("a finished request is QUEUED in slot", slot);
    }
    const uint32_t num_pages = get(m_.slots[slot].num_pages);
    if (num_pages > m_.geometry().max_pages_per_slot()) {
      findings_.add("the page list is longer than a request of slot, pages", slot, num_pages);
      return;
    }
    if (num_pages > 0 && class_of(word.phase) == UNLISTED) {
      findings_.add("pages are listed by an idle slot, pages", slot, num_pages);
    }
    for (uint32_t i = 0; i < num_pages; ++i) check_entry(slot, word, m_.list_of(slot)[i].get());
  }

  void check_entry(uint32_t slot, SlotWord word, PageRef ref) {
    if (ref.page == 0 || ref.page > m_.geometry().num_pages) {
      findings_.add("no such page is listed by slot, page", slot, ref.page);
      return;
    }
    const PageWord page = m_.page_words[ref.page].get();
    if (page.generation == ref.generation) {
      put(readers_[ref.page], readers_[ref.page] + 1);
      put(classes_[ref.page], std::max<uint32_t>(classes_[ref.page], class_of(word.phase)));
      return;
    }
    // Only a dead holder that began to release, and was not reaped yet, leaves an entry behind.
    const bool half_released = page.state == PageState::QUARANTINED && word.holder != NOBODY &&
                               page.generation == ref.generation + 1 &&
                               m_.tags[ref.page].get().instance == word.holder;
    if (!half_released) findings_.add("a stale page is listed by slot, page", slot, ref.page);
  }

  void check_page(uint32_t page) {
    const PageWord word = m_.page_words[page].get();
    const uint32_t readers = readers_[page];
    if (readers != m_.readers[page])
      findings_.add("wrong reader count of page, count", page, m_.readers[page]);
    if (word.indexed != is_found(page)) findings_.add("index and word disagree on page", page);
    switch (word.state) {
      case PageState::FREE:
        if (readers != 0 || word.indexed)
          findings_.add("a FREE page is in use, page, readers", page, readers);
        ++counts_.free;
        return;
      case PageState::QUARANTINED:
        if (readers != 0 || word.indexed)
          findings_.add("a QUARANTINED page is in use, page, readers", page, readers);
        if (m_.tags[page].get().instance == NOBODY)
          findings_.add("nobody's step ends the quarantine of page", page);
        ++counts_.quarantined;
        return;
      case PageState::WRITING:
        if (readers != 1 || word.indexed)
          findings_.add("a WRITING page needs one writer, page, slots", page, readers);
        break;
      case PageState::FILLED:
        if (!word.indexed && readers != 1)
          findings_.add("a FILLED page outside the index needs one reader, page, readers", page,
                        readers);
        break;
    }
    count_used(page);
  }

  void count_used(uint32_t page) {
    switch (classes_[page]) {
      case PREFILLING:
        ++counts_.prefilling;
        return;
      case SEALED:
        ++counts_.sealed;
        return;
      case DECODING:
        ++counts_.decoding;
        return;
      default:
        counts_.cached += m_.page_words[page].get().indexed;
    }
  }

  bool is_found(uint32_t page) const {
    for (uint32_t steps = 0, at = state_.index.first(page); at != 0; at = m_.chains[at]) {
      if (at == page) return true;
      if (++steps > m_.geometry().num_pages) return false;
    }
    return false;
  }

  void check_list(const PageList& list, PageState state, const char* name) {
    uint32_t length = 0;
    for (uint32_t page = list.front(); page != list.end(); page = list.next(page)) {
      const bool belongs = page != 0 && page <= m_.geometry().num_pages && readers_[page] == 0 &&
                           m_.page_words[page].get().state == state;
      if (!belongs || ++length > m_.geometry().num_pages) {
        findings_.add(name, page);
        return;
      }
    }
    if (length != list.count()) findings_.add(name, length, list.count());
  }

  void check_totals() {
    if (counts_.sum() != m_.geometry().num_pages) {
      findings_.add("pages are lost, of, accounted for", m_.geometry().num_pages, counts_.sum());
    }
    if (counts_.free != state_.free.count())
      findings_.add("free pages, listed", counts_.free, state_.free.count());
    if (counts_.cached != state_.cached.count())
      findings_.add("cached pages, listed", counts_.cached, state_.cached.count());
    if (counts_.quarantined != state_.quarantined.count())
      findings_.add("quarantined pages, listed", counts_.quarantined, state_.quarantined.count());
    if (num_sealed_ != state_.derived.num_sealed)
      findings_.add("sealed slots, counted", num_sealed_, state_.derived.num_sealed);
    if (num_sealed_ > m_.geometry().sealed_bound)
      findings_.add("too many sealed slots, bound", num_sealed_, m_.geometry().sealed_bound);
  }

  const LedgerState& state_;
  const LedgerMemory& m_;
  uint32_t *readers_, *classes_;
  FindingList& findings_;
  PageCounts counts_;
  uint32_t num_sealed_ = 0;
};

}  // namespace

void FindingList::add(const char* text, uint64_t first, uint64_t second) {
  if (count_ < findings_.size()) findings_[count_] = {text, first, second};
  ++count_;
}

std::vector<std::string> FindingList::texts() const {
  std::vector<std::string> out;
  for (uint32_t i = 0; i < std::min<uint32_t>(count_, findings_.size()); ++i) {
    out.push_back(join(findings_[i].text, ": ", findings_[i].first, ", ", findings_[i].second));
  }
  if (count_ > out.size()) out.push_back(join("and ", count_ - out.size(), " more"));
  return out;
}

PageCounts check_ledger(const LedgerState& state, FindingList& findings) {
  return Auditor(state, findings).run();
}

}  // namespace pdrt
