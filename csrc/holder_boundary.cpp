// The end of a step: its tokens, full pages and lengths become true, and what it might still have
// written becomes free.
#include <algorithm>

#include "holder.h"

namespace pdrt {

bool Holder::counts(uint32_t slot, uint32_t generation) const {
  const SlotWord seen = word(slot);
  return seen.held_by(me_) && seen.generation == generation && !is_finished(slot);
}

void Holder::check_step(uint64_t step) const {
  PDRT_CHECK(step == read_ + 1 && step <= launched_, "step is ", step, "; instance ", me_,
             " has read step ", read_, " and launched step ", launched_,
             ", and steps are read in launch order");
}

// Before the lock: a slot's numbers change by its holder alone, and that is this thread.
void Holder::check_row(const Row& row) const {
  ledger_->check_slot(row.slot);
  if (!counts(row.slot, row.generation) || row.reason == FinishReason::ERROR) return;
  const SlotRecord& record = m_.slots[row.slot];
  const uint32_t num_output = m_.lengths[row.slot].get().num_output_tokens;
  const uint32_t num_tokens = get(record.num_prompt_tokens) + num_output;
  const uint32_t computed = get(record.num_computed);
  const uint32_t room = std::min(num_tokens, get(record.num_pages) * geometry_.page_size);
  PDRT_CHECK(computed < row.num_computed && row.num_computed <= room, "slot ", row.slot, " had ",
             computed, " tokens computed; a step brings it to at most ", room, ", not to ",
             row.num_computed);
  const bool last = row.num_computed == num_tokens;
  PDRT_CHECK(last == (row.token != NO_TOKEN) && row.token >= NO_TOKEN, "slot ", row.slot, " has ",
             num_tokens, " tokens and ", row.num_computed, " computed; token is ", row.token,
             ", but a token comes with the last of them and only then");
  PDRT_CHECK(last || row.reason == FinishReason::NONE, "slot ", row.slot,
             " is finished by a row without a token; only ERROR may do that");
  const bool out_of_tokens = last && num_output + 1 == get(record.max_tokens);
  PDRT_CHECK(!out_of_tokens || row.reason != FinishReason::NONE, "slot ", row.slot,
             " gets the last of its max_tokens ", get(record.max_tokens),
             "; the row must carry a finish reason");
}

void Holder::commit(LedgerState& state, const Row& row) {
  const Length length = m_.lengths[row.slot].get();
  if (row.reason ==
      FinishReason::ERROR) {  // what the step computed is in doubt: nothing is published
    m_.lengths[row.slot].put({length.num_output_tokens, FinishReason::ERROR});
    return;
  }
  SlotRecord& record = m_.slots[row.slot];
  const uint32_t first_page = get(record.num_computed) / geometry_.page_size;
  const uint32_t end_page = row.num_computed / geometry_.page_size;
  put(record.num_computed, row.num_computed);
  if (row.token !=
      NO_TOKEN) {  // token first, then the length word that makes it one of the request's
    const uint32_t position = state.num_tokens(row.slot);
    put(m_.logprobs_of(row.slot)[position], row.logprob);
    put(m_.tokens_of(row.slot)[position], row.token);
    m_.lengths[row.slot].put({length.num_output_tokens + 1, row.reason});
  }
  for (uint32_t page = first_page; page < end_page; ++page) state.publish(row.slot, page);
}

std::optional<std::vector<bool>> Holder::boundary(uint64_t step, std::span<const Row> rows) {
  check_step(step);
  std::vector<bool> seen(geometry_.num_slots);
  for (const Row& row : rows) {
    check_row(row);
    PDRT_CHECK(!seen[row.slot], "slot ", row.slot, " has two rows in step ", step);
    seen[row.slot] = true;
  }
  std::vector<bool> counted(rows.size());
  Section section(*ledger_);
  if (!section) return {};
  for (size_t i = 0; i < rows.size(); ++i) {
    counted[i] = counts(rows[i].slot, rows[i].generation);
    if (counted[i]) commit(*section, rows[i]);
  }
  section->drain(me_, step);
  read_ = step;
  return counted;
}

}  // namespace pdrt
