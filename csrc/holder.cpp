#include "holder.h"

#include <algorithm>

namespace pdrt {

Holder::Holder(std::shared_ptr<Ledger> ledger, uint32_t instance)
    : ledger_(std::move(ledger)),
      m_(ledger_->memory()),
      geometry_(ledger_->geometry()),
      me_(instance) {
  PDRT_CHECK(instance >= NUM_WORKERS && instance <= MAX_INSTANCE, "instance is ", instance,
             "; give incarnation << 8 | worker index, with an incarnation of 1 to 65535");
}

uint64_t Holder::launch() {
  PDRT_CHECK(launched_ < MAX_STEP, "instance ", me_, " has launched its last step, ", MAX_STEP);
  put(m_.header->workers[me_ % NUM_WORKERS].launched, ++launched_);
  return launched_;
}

void Holder::beat() {
  auto& progress = m_.header->workers[me_ % NUM_WORKERS].progress;
  put(progress, progress.load(std::memory_order_relaxed) + 1);
}

void Holder::set_computing(bool computing) {
  put(m_.header->workers[me_ % NUM_WORKERS].computing, uint32_t{computing});
}

std::optional<uint32_t> Holder::ready(uint32_t slot, uint32_t generation) const {
  ledger_->check_slot(slot);
  if (!counts(slot, generation) || word(slot).marked()) return std::nullopt;
  return get(m_.slots[slot].num_computed);
}

// -- prefill ----------------------------------------------------------------------------

Outcome Holder::admit(uint32_t slot, uint32_t generation, const CopyPage& copy) {
  ledger_->check_slot(slot);
  Section section(*ledger_);
  if (!section) return Outcome::BUSY;
  const SlotWord seen = word(slot);
  if (seen.phase != Phase::QUEUED || seen.generation != generation || seen.abort) {
    return Outcome::STALE;
  }
  if (!section->is_oldest_queued(slot)) return Outcome::NOT_OLDEST;
  const uint32_t num_tokens = section->num_tokens(slot);
  // The last token is always computed, so that a FILLED page is never written.
  const uint32_t most_hits = may_reuse(slot) ? (num_tokens - 1) / geometry_.page_size : 0;
  const auto hits = section->find_hits(slot, most_hits);
  const uint32_t num_hits = static_cast<uint32_t>(hits.size());
  const uint32_t room = std::min(num_tokens + 1, num_tokens_with_kv(m_, slot));
  const uint32_t need = geometry_.pages_of(room) - num_hits;
  if (!section->has_room(need, hits)) return Outcome::NO_PAGES;
  section->pin(hits);
  while (section->free.count() < need) section->evict_oldest();
  section->set_word(slot, Phase::PREFILLING, me_);
  put(m_.slots[slot].num_computed, num_hits * geometry_.page_size);
  put(m_.slots[slot].goal, num_tokens);
  section->list_hits(slot, hits);
  section->list_free(slot, need);
  if (copy && may_reuse(slot)) copy_partial_hit(*section, slot, copy);
  count_admission(*section, slot);
  return Outcome::DONE;
}

// A prompt that is to be scored is computed in full; once there is output, its scores are written.
bool Holder::may_reuse(uint32_t slot) const {
  return get(m_.slots[slot].reuse) != 0 || m_.lengths[slot].get().num_output_tokens > 0;
}

void Holder::count_admission(LedgerState& state, uint32_t slot) {
  SlotRecord& record = m_.slots[slot];
  const uint32_t num_hits = get(record.num_computed);
  // A request that comes back finds what it has computed itself.
  if (!state.has_passed(slot, Point::ADMITTED)) put(record.num_cached, num_hits);
  state.pass(slot, Point::ADMITTED);
  Counters& counters = m_.header->counters;
  state.count(counters.admitted);
  if (may_reuse(slot)) state.count(counters.prefix_queried_tokens, get(record.goal));
  state.count(counters.prefix_hit_tokens, num_hits);
}

Outcome Holder::seal(uint32_t slot) {
  ledger_->check_slot(slot);
  Section section(*ledger_);
  if (!section) return Outcome::BUSY;
  const SlotWord seen = word(slot);
  const uint32_t goal = get(m_.slots[slot].goal);
  // The first token was read, so all prefill steps of the slot were; no decode step runs before the
  // seal.
  const bool computed =
      get(m_.slots[slot].num_computed) == goal && section->num_tokens(slot) == goal + 1;
  if (!seen.held_by(me_) || seen.phase != Phase::PREFILLING || seen.abort || is_finished(slot) ||
      !computed) {
    return Outcome::STALE;
  }
  if (section->derived.num_sealed >= geometry_.sealed_bound) return Outcome::FULL;
  section->pass(slot, Point::SEALED);
  section->set_word(slot, Phase::SEALED, NOBODY);
  put(section->derived.num_sealed, section->derived.num_sealed + 1);
  return Outcome::DONE;
}

// -- decode -----------------------------------------------------------------------------

Outcome Holder::take(uint32_t slot, uint32_t generation, uint64_t bytes_moved) {
  ledger_->check_slot(slot);
  Section section(*ledger_);
  if (!section) return Outcome::BUSY;
  const SlotWord seen = word(slot);
  if (seen.phase != Phase::SEALED || seen.generation != generation || seen.abort) {
    return Outcome::STALE;
  }
  if (!section->list_is_current(slot)) {  // fail closed: compute it again
    section->take_back(slot, me_);
    return Outcome::STALE;
  }
  section->set_word(slot, Phase::DECODING, me_);
  put(section->derived.num_sealed, section->derived.num_sealed - 1);
  put(m_.slots[slot].num_computed, section->num_tokens(slot) - 1);
  section->pass(slot, Point::TAKEN);
  section->count(m_.header->counters.handed_off);
  section->count(m_.header->counters.handoff_bytes, bytes_moved);
  return Outcome::DONE;
}

Outcome Holder::grow(uint32_t slot, uint32_t num_tokens, bool speculative) {
  check_growth(slot, num_tokens);
  Section section(*ledger_);
  if (!section) return Outcome::BUSY;
  const SlotWord seen = word(slot);
  if (!seen.held_by(me_) || seen.phase != Phase::DECODING || seen.abort) return Outcome::STALE;
  while (get(m_.slots[slot].num_pages) < geometry_.pages_of(num_tokens)) {
    const Outcome found = find_page(*section, slot, speculative);
    if (found != Outcome::DONE) return found;
    section->list_free(slot, 1);
  }
  return Outcome::DONE;
}

void Holder::check_growth(uint32_t slot, uint32_t num_tokens) const {
  ledger_->check_slot(slot);
  if (!word(slot).held_by(me_)) return;  // another's numbers may change under our eyes
  const uint32_t full = num_tokens_with_kv(m_, slot);
  PDRT_CHECK(num_tokens <= full, "slot ", slot, " is to grow to ", num_tokens,
             " tokens; its prompt and max_tokens end at ", full);
}

Outcome Holder::find_page(LedgerState& state, uint32_t slot, bool speculative) {
  if (state.free.count() == 0 && state.cached.count() > 0) state.evict_oldest();
  if (state.free.count() > 0) return Outcome::DONE;
  // A request that may just be ending takes nothing from another.
  return speculative ? Outcome::NO_PAGES : make_room(state, slot);
}

Outcome Holder::make_room(LedgerState& state, uint32_t slot) {
  const std::optional<uint32_t> victim = state.find_victim();
  if (!victim) return Outcome::NO_PAGES;
  const SlotWord seen = word(*victim);
  if (seen.phase == Phase::SEALED) {
    state.take_back(*victim, me_);
    state.count(m_.header->counters.preempted);
  } else if (seen.holder == me_) {
    requeue(state, *victim);
  } else {
    state.mark_victim(*victim);
  }
  return *victim == slot ? Outcome::LET_GO : Outcome::PREEMPTED;
}

void Holder::requeue(LedgerState& state, uint32_t slot) {
  state.put_back(slot, tag(), read_);
  state.count(m_.header->counters.preempted);
}

// -- both -------------------------------------------------------------------------------

Outcome Holder::let_go(uint32_t slot) {
  ledger_->check_slot(slot);
  Section section(*ledger_);
  if (!section) return Outcome::BUSY;
  const SlotWord seen = word(slot);
  if (!seen.held_by(me_) || !seen.victim || seen.abort) return Outcome::STALE;
  if (section->is_oldest(slot)) {  // an old mark: others have left since
    section->set_word(slot, seen.phase, me_);
    return Outcome::STALE;
  }
  requeue(*section, slot);
  return Outcome::DONE;
}

Outcome Holder::finish(uint32_t slot) {
  ledger_->check_slot(slot);
  Section section(*ledger_);
  if (!section) return Outcome::BUSY;
  if (!word(slot).held_by(me_) || !is_finished(slot)) return Outcome::STALE;
  section->put_back(slot, tag(), read_);
  return Outcome::DONE;
}

Outcome Holder::abort(uint32_t slot) {
  ledger_->check_slot(slot);
  Section section(*ledger_);
  if (!section) return Outcome::BUSY;
  if (!word(slot).held_by(me_) || !word(slot).abort) return Outcome::STALE;
  section->put_back(slot, tag(), read_);
  return Outcome::DONE;
}

}  // namespace pdrt
