// What anyone may read without the lock: a slot's numbers are exact for its holder, and a snapshot
// for others.
#pragma once

#include <cstdint>

#include "ledger_memory.h"

namespace pdrt {

struct SlotInfo {
  uint64_t request_id, rank;
  uint32_t num_prompt_tokens, num_output_tokens, max_tokens, num_computed_tokens, num_cached_tokens;
  uint32_t goal, num_pages;
  FinishReason finish_reason;
};

struct Times {
  double queued, admitted, sealed, taken, finished;
};

using CounterValues = CountersOf<uint64_t>;

SlotInfo read_info(const LedgerMemory& memory, uint32_t slot);
Times read_times(const LedgerMemory& memory, uint32_t slot);
CounterValues read_counters(const LedgerMemory& memory);

}  // namespace pdrt
