// The small values of the ledger that are kept in one 64-bit word each, so that each change of one
// is whole or has not happened.
//
//   slot word    generation 32 | holder 24 | - 3 | VICTIM 1 | ABORT 1 | phase 3
//   page word    generation 32 | - 29 | indexed 1 | state 2
//   page ref     generation 32 | page 32                 an entry of a slot's page list
//   length       finish reason 32 | output tokens 32
//   tag          instance 24 | step 40                   who may still write a QUARANTINED page
#pragma once

#include <cstdint>

#include "check.h"

namespace pdrt {

enum class Phase : uint8_t { EMPTY, QUEUED, PREFILLING, SEALED, DECODING, PREEMPTED, FINISHED };
enum class PageState : uint8_t { FREE, WRITING, FILLED, QUARANTINED };
// What becomes of the filled pages of a slot that nobody else reads: cached, or never found again.
enum class Filled : uint8_t { KEPT, DROPPED };
enum class FinishReason : uint8_t { NONE, STOP, LENGTH, ERROR };
enum class Outcome : uint8_t { DONE, BUSY, STALE, NOT_OLDEST, NO_PAGES, FULL, PREEMPTED, LET_GO };

inline constexpr uint32_t NOBODY = 0;
inline constexpr uint32_t KEEPER = 1;
inline constexpr uint32_t NUM_WORKERS = 256;
inline constexpr uint32_t MAX_INSTANCE = (1u << 24) - 1;  // incarnation << 8 | worker index
inline constexpr uint64_t MAX_STEP = (1ull << 40) - 1;

struct SlotWord {
  Phase phase = Phase::EMPTY;
  bool abort = false, victim = false;
  uint32_t holder = NOBODY, generation = 1;

  uint64_t pack() const {
    return static_cast<uint64_t>(generation) << 32 | static_cast<uint64_t>(holder) << 8 |
           static_cast<uint64_t>(victim) << 4 | static_cast<uint64_t>(abort) << 3 |
           static_cast<uint64_t>(phase);
  }
  static SlotWord unpack(uint64_t bits) {
    return {.phase = static_cast<Phase>(bits & 7),
            .abort = (bits >> 3 & 1) != 0,
            .victim = (bits >> 4 & 1) != 0,
            .holder = static_cast<uint32_t>(bits >> 8 & MAX_INSTANCE),
            .generation = static_cast<uint32_t>(bits >> 32)};
  }

  bool marked() const { return abort || victim; }
  bool held_by(uint32_t instance) const {
    return holder == instance && (phase == Phase::PREFILLING || phase == Phase::DECODING);
  }
  bool active() const {
    return phase == Phase::PREFILLING || phase == Phase::SEALED || phase == Phase::DECODING;
  }
};

struct PageWord {
  PageState state = PageState::FREE;
  bool indexed = false;
  uint32_t generation = 1;

  uint64_t pack() const {
    return static_cast<uint64_t>(generation) << 32 | static_cast<uint64_t>(indexed) << 2 |
           static_cast<uint64_t>(state);
  }
  static PageWord unpack(uint64_t bits) {
    return {.state = static_cast<PageState>(bits & 3),
            .indexed = (bits >> 2 & 1) != 0,
            .generation = static_cast<uint32_t>(bits >> 32)};
  }
};

struct PageRef {
  uint32_t page = 0, generation = 0;

  uint64_t pack() const { return static_cast<uint64_t>(generation) << 32 | page; }
  static PageRef unpack(uint64_t bits) {
    return {.page = static_cast<uint32_t>(bits), .generation = static_cast<uint32_t>(bits >> 32)};
  }
};

struct Length {
  uint32_t num_output_tokens = 0;
  FinishReason reason = FinishReason::NONE;

  uint64_t pack() const { return static_cast<uint64_t>(reason) << 32 | num_output_tokens; }
  static Length unpack(uint64_t bits) {
    return {.num_output_tokens = static_cast<uint32_t>(bits),
            .reason = static_cast<FinishReason>(bits >> 32)};
  }

  bool finished() const { return reason != FinishReason::NONE; }
};

struct Tag {
  uint32_t instance = NOBODY;
  uint64_t step = 0;

  uint64_t pack() const { return static_cast<uint64_t>(instance) << 40 | step; }
  static Tag unpack(uint64_t bits) {
    return {.instance = static_cast<uint32_t>(bits >> 40), .step = bits & MAX_STEP};
  }
};

}  // namespace pdrt
