// A few threads that share out the items of one job at a time, and sleep in between.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
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

  // Calls body(i) once for each i in [0, num_items), early ones first, and returns when all are
  // done. The body must not throw. Jobs of several callers run one after the other.
  void run(int64_t num_items, const std::function<void(int64_t)>& body);

 private:
  void work();
  void worker(uint64_t last_job);
  void stop();

  std::mutex callers_;  // held while a job runs or the threads change

  std::mutex mutex_;  // guards what follows, up to next_
  std::condition_variable started_, ended_;
  const std::function<void(int64_t)>* body_ = nullptr;
  int64_t num_items_ = 0;
  uint64_t job_ = 0;
  size_t busy_ = 0;
  bool stopping_ = false;

  std::atomic<int64_t> next_{0};
  std::vector<std::thread> threads_;
};

}  // namespace pdrt
