// Test builds only: ends or stops the process right after a chosen shared write.
#pragma once

#include <cstdint>

#include "check.h"

#ifdef PDRT_FAILPOINTS

namespace pdrt {

// The n-th shared write from now is the last before this process gets SIGKILL (or SIGSTOP); 0
// disarms.
void failpoint_arm(uint64_t n, bool stop);

// Shared writes of this process so far.
uint64_t shared_writes();

}  // namespace pdrt

#endif
