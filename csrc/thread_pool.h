// A few threads that share out the items of one job at a time, and sleep in between.
//
// Thread 0 is the caller's, the others are helpers. Each sleeps on a word of its own, so that a job
// wakes those that it uses and no other: the rest may sit on cores that another process computes
// on. Waits are futexes behind a short spin, and passive.
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
  void run(int64_t num_items, const std::function<void(int64_t)>& body);

 private:
  struct Helper {
    std::atomic<uint32_t> jobs{0};  // how many it has been woken for
    bool used = true;
    std::thread thread;
  };

  void start(int num_threads);
  void stop();
  void wake(Helper& helper);
  void help(Helper& helper);
  void work();

  std::mutex callers_;  // held while a job runs or the threads change
  std::vector<std::unique_ptr<Helper>> helpers_;

  // Of the job; written before helpers are woken.
  const std::function<void(int64_t)>* body_ = nullptr;
  int64_t num_items_ = 0;
  bool stopping_ = false;
  std::atomic<int64_t> next_{0};
  std::atomic<uint32_t> busy_{0};  // helpers that have not come to its end
};

}  // namespace pdrt
