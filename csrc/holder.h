// What one worker instance does to the ledger; the class Holder of pdrt/_C.pyi.
//
// Two steps may be in flight, in order on one stream. Launched is not computed: tokens, lengths,
// full pages and computed counts change when a step is READ, in launch order. A row counts when its
// slot still has this holder and generation and its length word does not say finished. Every step
// is read, also one whose rows were all dropped. A page that leaves a slot is tagged with the last
// launched step, which may still write it, and is free when that step was read.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "ledger.h"

namespace pdrt {

inline constexpr int32_t NO_TOKEN = -1;

// What a step did to one slot.
struct Row {
  uint32_t slot, generation;
  uint32_t num_computed;     // after the step
  int32_t token = NO_TOKEN;  // while the prompt has more chunks
  float logprob = 0.0f;
  FinishReason reason = FinishReason::NONE;  // of the request that this token ends
};

// What the model thought of the tokens from position `start` on. `num_top` rivals stand beside
// each, row by row, the likeliest first.
struct Scores {
  uint32_t start;
  std::span<const float> logprobs;
  uint32_t num_top;
  std::span<const int32_t> top_ids;
  std::span<const float> top_logprobs;
};

// Copies the KV of a page's first tokens, and returns when they are there; false, and nothing is
// copied, where that would take longer than to compute them. Called with the lock held.
using CopyPage = std::function<bool(uint32_t source, uint32_t destination, uint32_t num_tokens)>;

class Holder {
 public:
  Holder(std::shared_ptr<Ledger> ledger, uint32_t instance);

  uint32_t instance() const { return me_; }
  uint64_t launched() const { return launched_; }
  uint64_t read() const { return read_; }

  uint64_t launch();
  void beat();
  void set_computing(bool computing);
  // How much of a slot is computed, where a step may compute more: it is held in this generation,
  // not marked, and not at its end.
  std::optional<uint32_t> ready(uint32_t slot, uint32_t generation) const;

  // With a copy, tokens that lie in a page which another request is filling are not computed again.
  Outcome admit(uint32_t slot, uint32_t generation, const CopyPage& copy = {});
  // Before the row that makes the scored tokens computed. False when the slot is not held.
  bool score(uint32_t slot, uint32_t generation, const Scores& scores);
  // Which rows counted; nothing when the lock's deadline passed and nothing was done.
  std::optional<std::vector<bool>> boundary(uint64_t step, std::span<const Row> rows);
  Outcome seal(uint32_t slot);
  Outcome take(uint32_t slot, uint32_t generation, uint64_t bytes_moved = 0);
  Outcome grow(uint32_t slot, uint32_t num_tokens, bool speculative);
  Outcome let_go(uint32_t slot);
  Outcome finish(uint32_t slot);
  Outcome abort(uint32_t slot);

 private:
  SlotWord word(uint32_t slot) const { return m_.slot_words[slot].get(); }
  bool is_finished(uint32_t slot) const { return m_.lengths[slot].get().finished(); }
  Tag tag() const { return {.instance = me_, .step = launched_}; }
  // What a step did to the slot counts: it is still held, and not at its end.
  bool counts(uint32_t slot, uint32_t generation) const;
  void check_step(uint64_t step) const;
  void check_row(const Row& row) const;
  void check_scores(uint32_t slot, const Scores& scores) const;
  void commit(LedgerState& state, const Row& row);
  bool may_reuse(uint32_t slot) const;
  void copy_partial_hit(const LedgerState& state, uint32_t slot, const CopyPage& copy);
  void count_admission(LedgerState& state, uint32_t slot);
  void check_growth(uint32_t slot, uint32_t num_tokens) const;
  Outcome find_page(LedgerState& state, uint32_t slot, bool speculative);
  Outcome make_room(LedgerState& state, uint32_t slot);
  void requeue(LedgerState& state, uint32_t slot);

  std::shared_ptr<Ledger> ledger_;
  const LedgerMemory& m_;
  const Geometry& geometry_;
  uint32_t me_;
  uint64_t launched_ = 0, read_ = 0;
};

}  // namespace pdrt
