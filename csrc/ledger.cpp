#include "ledger.h"

namespace pdrt {

Section::Section(Ledger& ledger) : state_(ledger.state_), lock_(ledger.memory_.header->lock) {
  const RobustLock::Taken taken = lock_.take(ledger.geometry().lock_timeout_ms);
  taken_ = taken != RobustLock::Taken::NO;
  if (taken != RobustLock::Taken::AFTER_A_DEATH) return;
  state_.rebuild();
  state_.count(state_.m.header->counters.rebuilt);
  lock_.mark_consistent();
}

Section::~Section() {
  if (taken_) lock_.release();
}

Ledger::Ledger(const Geometry& geometry, std::string_view name_space)
    : memory_(geometry, name_space), state_(memory_) {
  state_.rebuild();
  memory_.header->counts.put({.free = geometry.num_pages, .total = geometry.num_pages});
}

Ledger::Ledger(int fd) : memory_(fd), state_(memory_) {}

std::shared_ptr<Ledger> Ledger::create(const Geometry& geometry, std::string_view name_space) {
  return std::shared_ptr<Ledger>(new Ledger(geometry, name_space));
}

std::shared_ptr<Ledger> Ledger::attach(int fd) { return std::shared_ptr<Ledger>(new Ledger(fd)); }

void Ledger::check_slot(uint32_t slot) const {
  PDRT_CHECK(slot < geometry().num_slots, "slot is ", slot, "; the ledger has ",
             geometry().num_slots, ", numbered from 0");
}

// -- router -----------------------------------------------------------------------------

void Ledger::check_request(const NewRequest& request) const {
  const uint64_t length = request.prompt.size() + uint64_t{request.max_tokens};
  PDRT_CHECK(!request.prompt.empty(), "the prompt is empty; give 1 token or more");
  PDRT_CHECK(request.max_tokens >= 1, "max_tokens is 0; give 1 or more");
  PDRT_CHECK(length <= geometry().max_model_len, "a prompt of ", request.prompt.size(),
             " tokens and max_tokens ", request.max_tokens, " make ", length,
             ", more than max_model_len ", geometry().max_model_len, "; shorten one of them");
  PDRT_CHECK(request.params.size() <= geometry().max_params_bytes, "params has ",
             request.params.size(), " bytes; at most ", geometry().max_params_bytes, " fit");
}

void Ledger::write_request(uint32_t slot, const NewRequest& request) {
  SlotRecord& record = memory_.slots[slot];
  put(memory_.ranks[slot], request.rank);
  memory_.lengths[slot].put(Length{});
  put(record.request_id, request.request_id);
  put(record.num_prompt_tokens, static_cast<uint32_t>(request.prompt.size()));
  put(record.max_tokens, request.max_tokens);
  put(record.reuse, request.reuse ? 1 : 0);
  put(record.num_computed, 0);
  put(record.num_cached, 0);
  put(record.goal, 0);
  for (auto& time : record.times) put(time, 0.0);
  for (size_t i = 0; i < request.prompt.size(); ++i) {
    put(memory_.tokens_of(slot)[i], request.prompt[i]);
  }
  for (size_t i = 0; i < request.params.size(); ++i) {
    put(memory_.params_of(slot)[i], static_cast<uint8_t>(request.params[i]));
  }
  put(record.num_params_bytes, static_cast<uint32_t>(request.params.size()));
  state_.pass(slot, Point::QUEUED);
}

std::optional<std::pair<uint32_t, uint32_t>> Ledger::claim(const NewRequest& request) {
  check_request(request);
  // From the first on: a slot's tokens and scores take memory once it is used, and never give it
  // back.
  for (uint32_t slot = 0; slot < geometry().num_slots; ++slot) {
    SlotWord word = memory_.slot_words[slot].get();
    if (word.phase != Phase::EMPTY) continue;
    write_request(slot, request);
    memory_.slot_words[slot].put({.phase = Phase::QUEUED, .generation = word.generation});
    return std::pair(slot, word.generation);
  }
  return {};
}

bool Ledger::mark_abort(uint32_t slot, uint32_t generation) {
  check_slot(slot);
  SlotWord seen = memory_.slot_words[slot].get();
  SlotWord wanted;
  do {
    if (seen.generation != generation) return false;
    if (seen.phase == Phase::EMPTY || seen.phase == Phase::FINISHED) return false;
    wanted = seen;
    wanted.abort = true;
  } while (!memory_.slot_words[slot].swap(seen, wanted));
  return true;
}

bool Ledger::end(uint32_t slot, uint32_t generation) {
  check_slot(slot);
  SlotWord seen = memory_.slot_words[slot].get();
  if (seen.phase != Phase::FINISHED || seen.generation != generation) return false;
  return memory_.slot_words[slot].swap(seen, {.generation = generation + 1});
}

// -- keeper -----------------------------------------------------------------------------

bool Ledger::is_to_sweep(uint32_t slot) const {
  const SlotWord word = memory_.slot_words[slot].get();
  return word.abort && (word.phase == Phase::QUEUED || word.phase == Phase::SEALED);
}

std::optional<uint32_t> Ledger::sweep() {
  uint32_t slot = 0;
  while (slot < geometry().num_slots && !is_to_sweep(slot)) ++slot;
  if (slot == geometry().num_slots) return 0;  // mostly: then the lock is left to the workers
  Section section(*this);
  if (!section) return {};
  uint32_t swept = 0;
  for (; slot < geometry().num_slots; ++slot) {
    if (!is_to_sweep(slot)) continue;
    if (memory_.slot_words[slot].get().phase == Phase::SEALED) {
      section->take_back(slot, KEEPER);
    } else {
      section->put_back(slot, {.instance = KEEPER}, 0);
    }
    ++swept;
  }
  return swept;
}

Outcome Ledger::reap(uint32_t instance, Filled filled) {
  Section section(*this);
  if (!section) return Outcome::BUSY;
  for (uint32_t slot = 0; slot < geometry().num_slots; ++slot) {
    const SlotWord word = memory_.slot_words[slot].get();
    if (word.holder == instance) section->put_back(slot, {.instance = instance}, MAX_STEP, filled);
  }
  section->drain(instance, MAX_STEP);
  put(memory_.header->workers[instance % NUM_WORKERS].computing, uint32_t{0});
  section->count(memory_.header->counters.reaped);
  return Outcome::DONE;
}

std::optional<Audit> Ledger::audit() {
  FindingList findings;
  PageCounts counts;
  {
    Section section(*this);
    if (!section) return {};
    counts = check_ledger(*section, findings);
    memory_.header->counts.put(counts);
    section->count(memory_.header->counters.violations, findings.count());
  }
  return Audit{.counts = counts, .violations = findings.texts()};
}

}  // namespace pdrt
