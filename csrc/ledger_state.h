// The pieces that the ledger's operations are made of. All of them run under the lock.
//
// Three rules carry everything, because a process may die between any two writes:
//   1. OWN FIRST. A slot's word changes first on the way in and last on the way out, so every half
//   done
//      thing stands under the name of one instance: alive, or to be reaped.
//   2. PAGES OUT BEFORE LIST. A page that a slot gives back first gets generation + 1 (QUARANTINED,
//   tagged
//      with who may still write it), then the list is cleared, then the page becomes FREE. So no
//      page is ever WRITING without being listed.
//   3. THE WORD IS THE MESSAGE. Each change of a slot's word is a compare-and-swap that keeps the
//      router's ABORT mark, which may land at any time.
// The order of the writes to derived state does not matter: after a death it is recomputed.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "ledger_memory.h"
#include "page_list.h"
#include "prefix_index.h"

namespace pdrt {

// A page that another slot is filling, whose first tokens are another prompt's too.
struct PartialHit {
  uint32_t page = 0, num_tokens = 0;
};

class LedgerState {
 public:
  explicit LedgerState(const LedgerMemory& memory);

  // After a death: each page that is FREE but listed becomes WRITING (a claim rolled forward), and
  // all derived state is recomputed. It may die as well and be run again. Nothing is released.
  void rebuild();

  // -- words ----------------------------------------------------------------------------
  enum class Marks : uint8_t { DROP, KEEP_ABORT };
  void set_word(uint32_t slot, Phase phase, uint32_t holder, Marks marks = Marks::KEEP_ABORT,
                uint32_t bump = 0);
  void mark_victim(uint32_t slot);
  void pass(uint32_t slot, Point point);  // notes the time of the first passing
  bool has_passed(uint32_t slot, Point point) const;
  void count(std::atomic<uint64_t>& counter, uint64_t more = 1);

  // -- slots ----------------------------------------------------------------------------
  uint32_t num_tokens(uint32_t slot) const;
  bool list_is_current(uint32_t slot) const;
  bool is_oldest(uint32_t slot) const;          // of the slots that hold pages
  bool is_oldest_queued(uint32_t slot) const;   // of those that still wish to run
  std::optional<uint32_t> find_victim() const;  // the youngest that holds pages and may lose them
  uint32_t num_decoding() const;

  // -- pages ----------------------------------------------------------------------------

  // The indexed pages that hold the slot's first tokens, at most `most`; in scratch memory.
  std::span<const uint32_t> find_hits(uint32_t slot, uint32_t most);
  // The longest beginning of the slot's page `number` that another slot has computed, behind the
  // same pages. It stays what it is while the lock is held.
  PartialHit find_partial_hit(uint32_t slot, uint32_t number) const;
  // Are there `need` free and evictable pages beside the hits and the watermark? The hits are not
  // to be evicted for their own request; one page for each decoding request stays, else it would
  // take back by preemption what was just given.
  bool has_room(uint32_t need, std::span<const uint32_t> hits) const;
  // Counts one reader more for each page, so that none is evicted; list_hits must follow.
  void pin(std::span<const uint32_t> pages);
  // Appends pinned pages to the slot's list.
  void list_hits(uint32_t slot, std::span<const uint32_t> pages);
  void evict_oldest();
  // Appends `count` free pages: list first, then the page words.
  void list_free(uint32_t slot, uint32_t count);
  // The slot's page number `number` is full: its side arrays, then FILLED, indexed if it is the
  // first.
  void publish(uint32_t slot, uint32_t number);
  // All steps of `instance` up to `step` were read or can never run: what they might have written
  // is free.
  void drain(uint32_t instance, uint64_t step);
  // The common end of preempt, let_go, finish, abort, sweep and reap; the word is the last write.
  // `tag` says what may still write the slot's pages, `read` which steps of that instance were
  // read, `filled` what becomes of filled pages that nobody else reads.
  void put_back(uint32_t slot, Tag tag, uint64_t read, Filled filled = Filled::KEPT);
  // SEALED goes to `holder` first, then back to QUEUED or out: no step can write its pages.
  void take_back(uint32_t slot, uint32_t holder);

  const LedgerMemory& m;
  PrefixIndex index;
  PageList free, cached, quarantined;
  Derived& derived;

 private:
  void release(uint32_t slot, Tag tag, Filled filled);
  void add_reader(uint32_t page);
  void drop_reader(uint32_t page);
  void append(uint32_t slot, uint32_t page);
  // pieces of rebuild
  void recount_readers();
  void sort_pages_into_lists();
  void restore_order_of_use();
};

}  // namespace pdrt
