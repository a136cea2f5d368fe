// The ledger's lock: a process-shared robust mutex that is taken with a deadline. It lives in
// shared memory and is told apart from its holder's fate: whoever takes it after a death is told
// so, and must mark it consistent before the release, else nobody can ever take it again.
#pragma once

#include <pthread.h>
#include <sys/types.h>

#include <atomic>
#include <cstdint>

#include "check.h"

namespace pdrt {

struct LockState {
  pid_t owner;  // thread id, 0 when free
  uint64_t
      acquisition;  // number of the latest acquisition: the same owner and number are one holding
};

class RobustLock {
 public:
  enum class Taken { YES, AFTER_A_DEATH, NO };

  void init();
  // NO: the deadline passed. Throws std::system_error if the lock can never be taken again.
  Taken take(uint32_t timeout_ms);
  void mark_consistent();
  void release();
  LockState state() const;  // without taking it

 private:
  pthread_mutex_t mutex_;
  std::atomic<uint64_t> acquisition_;
};

}  // namespace pdrt
