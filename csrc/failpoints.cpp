#include "failpoints.h"

#ifdef PDRT_FAILPOINTS

#include <signal.h>
#include <unistd.h>

#include <atomic>

#include "shared_write.h"

namespace pdrt {
namespace {

std::atomic<uint64_t> written{0};
std::atomic<uint64_t> last_write{0};
std::atomic<int> signal_to_send{SIGKILL};

}  // namespace

void count_shared_write() {
  if (++written == last_write) kill(getpid(), signal_to_send);
}

void failpoint_arm(uint64_t n, bool stop) {
  signal_to_send = stop ? SIGSTOP : SIGKILL;
  last_write = n == 0 ? 0 : written + n;
}

uint64_t shared_writes() { return written; }

}  // namespace pdrt

#endif
