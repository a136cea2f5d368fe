// The shared records of all pages and requests; the class Ledger of pdrt/_C.pyi.
//
// The router's operations and all snapshots are lock-free. The keeper's and the workers' (holder.h)
// run in sections: the lock is taken with a deadline, and whoever takes it after a death first
// rebuilds the derived state.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include "ledger_audit.h"
#include "ledger_memory.h"
#include "ledger_state.h"

namespace pdrt {

class Ledger {
 public:
  static std::shared_ptr<Ledger> create(const Geometry& geometry, std::string_view name_space);
  static std::shared_ptr<Ledger> attach(int fd);

  const LedgerMemory& memory() const { return memory_; }
  const Geometry& geometry() const { return memory_.geometry(); }

  // -- router ---------------------------------------------------------------------------
  struct NewRequest {
    uint64_t request_id, rank;
    std::span<const int32_t> prompt;
    uint32_t max_tokens;
    std::string_view params;
    bool reuse = true;
  };
  // Slot and generation; nothing when no slot is EMPTY. One process claims, from one thread.
  std::optional<std::pair<uint32_t, uint32_t>> claim(const NewRequest& request);
  bool mark_abort(uint32_t slot, uint32_t generation);
  bool end(uint32_t slot, uint32_t generation);

  // -- keeper ---------------------------------------------------------------------------
  // Takes out what nobody holds and a client left; how many, or nothing when the lock is busy.
  std::optional<uint32_t> sweep();
  // Releases what a dead instance held. After a fault of its device its filled pages are dropped,
  // but for those that others read: nobody is to find them.
  Outcome reap(uint32_t instance, Filled filled = Filled::KEPT);
  std::optional<Audit> audit();

  void check_slot(uint32_t slot) const;

 private:
  friend class Section;

  explicit Ledger(const Geometry& geometry, std::string_view name_space);
  explicit Ledger(int fd);
  bool is_to_sweep(uint32_t slot) const;
  void check_request(const NewRequest& request) const;
  void write_request(uint32_t slot, const NewRequest& request);

  LedgerMemory memory_;
  LedgerState state_;
};

// One holding of the lock. It converts to false when the deadline passed: then nothing may be done.
class Section {
 public:
  explicit Section(Ledger& ledger);
  ~Section();
  Section(const Section&) = delete;
  Section& operator=(const Section&) = delete;

  explicit operator bool() const { return taken_; }
  LedgerState* operator->() { return &state_; }
  LedgerState& operator*() { return state_; }

 private:
  LedgerState& state_;
  RobustLock& lock_;
  bool taken_;
};

}  // namespace pdrt
