#include "robust_lock.h"

#include <linux/futex.h>
#include <time.h>
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

#include <cerrno>

#include "shared_write.h"

#ifndef __GLIBC__
#error \
    "the owner of a mutex is read from glibc's pthread_mutex_t; teach RobustLock::state this C library"
#endif

namespace pdrt {
namespace {

void must(int code, const char* what) {
  if (code != 0) throw_os_error(code, what);
}

timespec deadline_in(uint32_t timeout_ms) {
  timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  at.tv_sec += timeout_ms / 1000;
  at.tv_nsec += timeout_ms % 1000 * 1'000'000L;
  if (at.tv_nsec >= 1'000'000'000L) at.tv_sec += 1, at.tv_nsec -= 1'000'000'000L;
  return at;
}

int lock_until(pthread_mutex_t* mutex, const timespec& deadline) {
#ifdef __SANITIZE_THREAD__
  // ThreadSanitizer sees trylock and unlock, but has to be told of this call.
  __tsan_mutex_pre_lock(mutex, __tsan_mutex_try_lock);
#endif
  const int code = pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, &deadline);
#ifdef __SANITIZE_THREAD__
  const bool taken = code == 0 || code == EOWNERDEAD;
  const unsigned failed = taken ? 0 : __tsan_mutex_try_lock_failed;
  __tsan_mutex_post_lock(mutex, __tsan_mutex_try_lock | failed, 0);
#endif
  return code;
}

}  // namespace

void RobustLock::init() {
  pthread_mutexattr_t attributes;
  must(pthread_mutexattr_init(&attributes), "pthread_mutexattr_init");
  must(pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED), "setpshared");
  must(pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST), "setrobust");
  must(pthread_mutex_init(&mutex_, &attributes), "pthread_mutex_init");
  pthread_mutexattr_destroy(&attributes);
}

RobustLock::Taken RobustLock::take(uint32_t timeout_ms) {
  int code = pthread_mutex_trylock(&mutex_);
  if (code == EBUSY) {
    code = lock_until(&mutex_, deadline_in(timeout_ms));
  }
  if (code == ETIMEDOUT) return Taken::NO;
  if (code == ENOTRECOVERABLE) {
    throw_os_error(code,
                   "the ledger's lock was released without repair after a death and can never be "
                   "taken again; restart the server");
  }
  if (code != 0 && code != EOWNERDEAD) throw_os_error(code, "cannot take the ledger's lock");
  put(acquisition_, acquisition_.load(std::memory_order_relaxed) + 1);
  return code == EOWNERDEAD ? Taken::AFTER_A_DEATH : Taken::YES;
}

void RobustLock::mark_consistent() { pthread_mutex_consistent(&mutex_); }

void RobustLock::release() { pthread_mutex_unlock(&mutex_); }

LockState RobustLock::state() const {
  // The futex word of a robust mutex holds the owner's thread id beside two flags (futex(2)).
  const int word = __atomic_load_n(&mutex_.__data.__lock, __ATOMIC_ACQUIRE);
  return {.owner = word & FUTEX_TID_MASK, .acquisition = get(acquisition_)};
}

}  // namespace pdrt
