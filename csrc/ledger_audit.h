// The leak auditor: every invariant that can be checked from the memory, under the lock.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "ledger_state.h"

namespace pdrt {

struct Audit {
  PageCounts counts;
  std::vector<std::string> violations;
};

// Violations are noted without allocation while the lock is held, and put in words afterwards.
class FindingList {
 public:
  // `text` is a literal; `first` and `second` follow it.
  void add(const char* text, uint64_t first, uint64_t second = 0);
  std::vector<std::string> texts() const;
  uint32_t count() const { return count_; }

 private:
  struct Finding {
    const char* text;
    uint64_t first, second;
  };
  std::array<Finding, 64> findings_;
  uint32_t count_ = 0;  // of all, also those that found no place
};

// Counts each page once, and notes what is wrong.
PageCounts check_ledger(const LedgerState& state, FindingList& findings);

}  // namespace pdrt
