#include "ledger_snapshots.h"

namespace pdrt {

SlotInfo read_info(const LedgerMemory& memory, uint32_t slot) {
  const SlotRecord& record = memory.slots[slot];
  const Length length = memory.lengths[slot].get();
  return {.request_id = get(record.request_id),
          .rank = get(memory.ranks[slot]),
          .num_prompt_tokens = get(record.num_prompt_tokens),
          .num_output_tokens = length.num_output_tokens,
          .max_tokens = get(record.max_tokens),
          .num_computed_tokens = get(record.num_computed),
          .num_cached_tokens = get(record.num_cached),
          .goal = get(record.goal),
          .num_pages = get(record.num_pages),
          .finish_reason = length.reason};
}

Times read_times(const LedgerMemory& memory, uint32_t slot) {
  const auto time = [&](Point point) {
    return get(memory.slots[slot].times[static_cast<size_t>(point)]);
  };
  return {.queued = time(Point::QUEUED),
          .admitted = time(Point::ADMITTED),
          .sealed = time(Point::SEALED),
          .taken = time(Point::TAKEN),
          .finished = time(Point::FINISHED)};
}

CounterValues read_counters(const LedgerMemory& memory) {
  const Counters& counters = memory.header->counters;
  return {.admitted = get(counters.admitted),
          .handed_off = get(counters.handed_off),
          .handoff_bytes = get(counters.handoff_bytes),
          .preempted = get(counters.preempted),
          .evicted = get(counters.evicted),
          .finished = get(counters.finished),
          .aborted = get(counters.aborted),
          .reaped = get(counters.reaped),
          .rebuilt = get(counters.rebuilt),
          .prefix_queried_tokens = get(counters.prefix_queried_tokens),
          .prefix_hit_tokens = get(counters.prefix_hit_tokens),
          .violations = get(counters.violations)};
}

}  // namespace pdrt
