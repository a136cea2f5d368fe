// The one door to shared memory: every store goes through put() or Packed, so that a test build can
// count them and end the process right after the n-th. In the normal build the count is nothing.
#pragma once

#include <atomic>
#include <cstdint>
#include <type_traits>

#include "check.h"

namespace pdrt {

#ifdef PDRT_FAILPOINTS
void count_shared_write();
#else
inline void count_shared_write() {}
#endif

// Stores are released and loads acquired, so whoever sees a word sees all that was written before.
template <class T>
void put(std::atomic<T>& where, std::type_identity_t<T> value) {
  static_assert(std::atomic<T>::is_always_lock_free, "shared between processes");
  where.store(value, std::memory_order_release);
  count_shared_write();
}

template <class T>
T get(const std::atomic<T>& where) {
  return where.load(std::memory_order_acquire);
}

// Plain memory: derived state, which only the holder of the lock touches, and side arrays, which
// are written before the word that makes them visible.
template <class T>
  requires std::is_trivially_copyable_v<T>
void put(T& where, std::type_identity_t<T> value) {
  where = value;
  count_shared_write();
}

// A small value kept in one 64-bit word; Value has pack() and a static unpack().
template <class Value>
class Packed {
 public:
  Value get() const { return Value::unpack(pdrt::get(bits_)); }
  void put(Value value) { pdrt::put(bits_, value.pack()); }

  // Compare and swap; on failure `expected` becomes what is there.
  bool swap(Value& expected, Value wanted) {
    uint64_t seen = expected.pack();
    if (!bits_.compare_exchange_strong(seen, wanted.pack(), std::memory_order_acq_rel,
                                       std::memory_order_acquire)) {
      expected = Value::unpack(seen);
      return false;
    }
    count_shared_write();
    return true;
  }

 private:
  static_assert(std::atomic<uint64_t>::is_always_lock_free, "shared between processes");
  std::atomic<uint64_t> bits_;
};

}  // namespace pdrt
