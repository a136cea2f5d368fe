// A few threads that share out the items of one job at a time, and sleep in between.
//
// Thread 0 is the caller's, the others are helpers. Each sleeps on a word of its own, so that a job
// wakes those that it uses and no other: the rest may sit on cores that another process computes
// on. A thread that waits spins for as long as the caller needs between two jobs of a step, since
// waking it would take longer, and then sleeps on a futex.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace pdrt {

class ThreadPool {
 public:
  using Body = std::function<void(int64_t)>;

  // The process's pool: one thread, the caller's, until set_num_threads. A forked child starts with
  // a new one, since threads do not survive fork.
  static ThreadPool& instance();

  ThreadPool() = default;
  ~ThreadPool() { stop(); }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // The caller's thread counts as one of them. Throws std::invalid_argument below 1.
  void set_num_threads(int num_threads);

  // One thread for each core of this list, bound to it: the caller's to the first. Throws
  // std::system_error where the process may not run on one of them.
  void set_cores(const std::vector<int>& cores);

  // The threads, by number, that share the next jobs with the caller's; at first all.
  void use(const std::vector<int>& threads);

  // Calls body(i) once for each i in [0, num_items), early ones first, and returns when all are
  // done. The body must not throw. Jobs of several callers run one after the other.
  void run(int64_t num_items, const Body& body);

  // The same for items that follow each other in memory: each thread begins with a stretch of its
  // own, and helps with the others' when that is done.
  void run_stretches(int64_t num_items, const Body& body);

 private:
  struct Helper {
    std::atomic<uint32_t> jobs{0};  // how many it has been woken for
    bool used = true;
    uint32_t turn = 0;  // among those that are used, from 1; the caller's is 0
    std::thread thread;
  };

  // Items from next to end are still to do.
  struct alignas(64) Stretch {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  void start(int num_threads);
  void stop();
  void wake(Helper& helper);
  void help(Helper& helper);
  void take_turns();
  void share(int64_t num_items, bool in_stretches, const Body& body);
  void work(uint32_t turn);

  std::mutex callers_;  // held while a job runs or the threads change
  std::vector<std::unique_ptr<Helper>> helpers_;
  uint32_t num_used_ = 0;  // of the helpers

  // Of the job; written before helpers are woken.
  const Body* body_ = nullptr;
  std::unique_ptr<Stretch[]> stretches_;  // one for each thread
  uint32_t num_stretches_ = 0;
  bool stopping_ = false;
  std::atomic<uint32_t> busy_{0};  // helpers that have not come to its end
};

}  // namespace pdrt
