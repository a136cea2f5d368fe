// What the model thought of tokens, for requests that ask. It is written before the row that makes
// the tokens count, and so under nobody's eyes: without the lock.
#include "holder.h"

namespace pdrt {

void Holder::check_scores(uint32_t slot, const Scores& scores) const {
  const size_t count = scores.logprobs.size();
  const uint32_t num_tokens =
      get(m_.slots[slot].num_prompt_tokens) + m_.lengths[slot].get().num_output_tokens;
  PDRT_CHECK(scores.start >= 1 && scores.start + count <= size_t{num_tokens} + 1, "slot ", slot,
             " has ", num_tokens, " tokens and gets at most one more; scores for [", scores.start,
             ", ", scores.start + count, ") are none of theirs");
  PDRT_CHECK(scores.num_top <= geometry_.max_top_logprobs, "scores have ", scores.num_top,
             " rivals a token; at most ", geometry_.max_top_logprobs, " fit");
  PDRT_CHECK(scores.top_ids.size() == count * scores.num_top &&
                 scores.top_logprobs.size() == count * scores.num_top,
             "scores of ", count, " tokens have ", scores.top_ids.size(), " ids and ",
             scores.top_logprobs.size(), " log-probabilities of rivals");
}

bool Holder::score(uint32_t slot, uint32_t generation, const Scores& scores) {
  ledger_->check_slot(slot);
  if (!counts(slot, generation)) return false;
  check_scores(slot, scores);
  size_t at = 0;
  for (uint32_t i = 0; i < scores.logprobs.size(); ++i) {
    const uint32_t position = scores.start + i;
    put(m_.logprobs_of(slot)[position], scores.logprobs[i]);
    for (uint32_t k = 0; k < scores.num_top; ++k, ++at) {
      put(m_.top_ids_at(slot, position)[k], scores.top_ids[at]);
      put(m_.top_logprobs_at(slot, position)[k], scores.top_logprobs[at]);
    }
  }
  return true;
}

}  // namespace pdrt
