// What lies where in the ledger's shared memory, and the mapping of it into this process.
//
// One memory file: the header, then one array a field (words and ranks are contiguous, so that a
// scan over all slots touches few cache lines). What is true and what is derived are kept apart:
// derived state is a function of the truth, changed under the lock only, and recomputed from the
// truth after its holder has died. Token regions are sparse: they cost memory when they are
// written.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "ledger_words.h"
#include "robust_lock.h"
#include "shared_write.h"
#include "siphash.h"

namespace pdrt {

struct Geometry {
  uint32_t num_pages, page_size, num_slots, max_model_len;
  uint32_t sealed_bound, max_params_bytes, max_top_logprobs, lock_timeout_ms;

  // Pages are numbered from 1: page 0 of the KV pool is scratch and never in the ledger.
  uint32_t num_page_ids() const { return num_pages + 1; }
  uint32_t pages_of(uint32_t num_tokens) const { return (num_tokens + page_size - 1) / page_size; }
  uint32_t max_pages_per_slot() const { return pages_of(max_model_len); }
  void check() const;
};

// Points that a slot passes; Times in Python.
enum class Point : uint8_t { QUEUED, ADMITTED, SEALED, TAKEN, FINISHED };
inline constexpr size_t NUM_POINTS = 5;

struct alignas(64) SlotRecord {
  std::atomic<uint64_t> request_id;
  std::atomic<uint32_t> num_prompt_tokens, max_tokens, num_params_bytes;
  std::atomic<uint32_t> reuse;                           // whether it may read known prefixes
  std::atomic<uint32_t> num_pages;                       // entries of the page list that count
  std::atomic<uint32_t> num_computed, num_cached, goal;  // the holder's own
  std::array<std::atomic<double>, NUM_POINTS> times;     // CLOCK_MONOTONIC seconds, 0: not yet
};

// Events since the ledger was made. Changed under the lock; a death may lose one, never more.
template <class Count>
struct CountersOf {
  Count admitted, handed_off, handoff_bytes, preempted, evicted, finished, aborted, reaped, rebuilt,
      prefix_queried_tokens, prefix_hit_tokens, violations;
};
using Counters = CountersOf<std::atomic<uint64_t>>;

// Each page once, under the most active slot that lists it.
struct PageCounts {
  uint32_t free = 0, prefilling = 0, sealed = 0, decoding = 0, cached = 0, quarantined = 0;
  uint32_t total = 0;

  uint32_t sum() const { return free + prefilling + sealed + decoding + cached + quarantined; }
};

// The latest audit's counts for readers without the lock. Two copies: the next audit writes the one
// that is not current, so a writer's death leaves a whole copy, and nobody waits for it.
class PublishedCounts {
 public:
  void put(const PageCounts& counts);
  PageCounts get() const;

 private:
  std::atomic<uint64_t> version_;
  std::array<std::array<std::atomic<uint32_t>, 7>, 2> copies_;
};

// What a worker says of itself, outside the lock: its cores are lent while it is not computing.
struct WorkerArea {
  alignas(64) std::atomic<uint64_t> launched;
  alignas(64) std::atomic<uint64_t> progress;
  std::atomic<uint32_t> computing;
};

// Neighbours of a page in the one list that it is in: free, cached or quarantined.
struct Link {
  uint32_t previous, next;
};

struct Derived {
  uint32_t num_free, num_cached, num_quarantined, num_sealed;
  uint64_t clock;  // ticks at each last use of a page
};

struct Header {
  uint64_t magic;
  uint32_t version, header_bytes;
  uint64_t num_bytes;
  Geometry geometry;
  Digest key, root;  // of the prefix index: drawn at creation; the digest before the first page
  alignas(64) RobustLock lock;
  alignas(64) Derived derived;
  Counters counters;
  PublishedCounts counts;
  std::array<WorkerArea, NUM_WORKERS> workers;
};

class LedgerMemory {
 public:
  // Makes and formats a memory file; pages and slots get generation 1, derived state is left to do.
  LedgerMemory(const Geometry& geometry, std::string_view name_space);
  explicit LedgerMemory(int fd);  // maps an existing one; the descriptor is duplicated
  ~LedgerMemory();
  LedgerMemory(const LedgerMemory&) = delete;
  LedgerMemory& operator=(const LedgerMemory&) = delete;

  int fd() const { return fd_; }
  size_t num_bytes() const { return num_bytes_; }
  const Geometry& geometry() const { return geometry_; }

  // A slot's own stretch of a region.
  Packed<PageRef>* list_of(uint32_t slot) const { return lists + pages_before(slot); }
  std::atomic<uint8_t>* params_of(uint32_t slot) const;
  std::atomic<int32_t>* tokens_of(uint32_t slot) const { return tokens + tokens_before(slot); }
  std::atomic<float>* logprobs_of(uint32_t slot) const { return logprobs + tokens_before(slot); }
  // The likeliest tokens at one position: max_top_logprobs entries.
  std::atomic<int32_t>* top_ids_at(uint32_t slot, uint32_t position) const {
    return top_ids + tops_before(slot, position);
  }
  std::atomic<float>* top_logprobs_at(uint32_t slot, uint32_t position) const {
    return top_logprobs + tops_before(slot, position);
  }
  int32_t* tokens_in(uint32_t page) const {
    return page_tokens + size_t{page} * geometry_.page_size;
  }

  Header* header;
  // truth: slots
  Packed<SlotWord>* slot_words;
  std::atomic<uint64_t>* ranks;  // smaller is older
  Packed<Length>* lengths;
  SlotRecord* slots;
  Packed<PageRef>* lists;
  std::atomic<uint8_t>* params;
  std::atomic<int32_t>* tokens;  // prompt, then output
  std::atomic<float>* logprobs;  // of these; a prompt's only where the request wants them
  std::atomic<int32_t>* top_ids;
  std::atomic<float>* top_logprobs;
  // truth: pages, by page id
  Packed<PageWord>* page_words;
  Packed<Tag>* tags;
  Digest *digests, *parents;  // of filled pages, written before the word that says so
  int32_t* page_tokens;
  uint64_t* last_use;
  // derived, by page id
  uint32_t* readers;  // slots that list the page with its current generation
  Link* links;        // after the pages: one head for each list
  uint32_t *buckets, *chains;
  uint32_t *scratch, *scratch_classes;  // for whoever holds the lock; nothing outlives the section

 private:
  // Gives each region its place after `base`, and returns the bytes of all.
  size_t place(uintptr_t base);
  void map();
  void format(std::string_view name_space);
  size_t pages_before(uint32_t slot) const { return size_t{slot} * geometry_.max_pages_per_slot(); }
  size_t tokens_before(uint32_t slot) const { return size_t{slot} * geometry_.max_model_len; }
  size_t tops_before(uint32_t slot, uint32_t position) const {
    return (tokens_before(slot) + position) * geometry_.max_top_logprobs;
  }

  int fd_ = -1;
  Geometry geometry_;
  size_t num_bytes_ = 0;
};

// Tokens whose KV the slot's request can ever need: the last token of all gets none.
uint32_t num_tokens_with_kv(const LedgerMemory& memory, uint32_t slot);

double monotonic_seconds();

}  // namespace pdrt
