#include "thread_pool.h"

#include <pthread.h>

#include <memory>

#include "check.h"

namespace pdrt {
namespace {

std::unique_ptr<ThreadPool>& current() {
  static auto pool = std::make_unique<ThreadPool>();
  return pool;
}

// The child's copy of the old pool has threads that do not exist: it is left alone, never joined.
void renew_in_child() {
  current().release();
  current() = std::make_unique<ThreadPool>();
}

}  // namespace

ThreadPool& ThreadPool::instance() {
  static const int registered = pthread_atfork(nullptr, nullptr, renew_in_child);
  (void)registered;
  return *current();
}

void ThreadPool::set_num_threads(int num_threads) {
  PDRT_CHECK(num_threads >= 1, "num_threads is ", num_threads, "; give 1 or more");
  std::lock_guard caller(callers_);
  stop();
  stopping_ = false;
  for (int i = 1; i < num_threads; ++i) threads_.emplace_back(&ThreadPool::worker, this, job_);
}

void ThreadPool::run(int64_t num_items, const std::function<void(int64_t)>& body) {
  std::lock_guard caller(callers_);
  if (threads_.empty() || num_items <= 1) {
    for (int64_t i = 0; i < num_items; ++i) body(i);
    return;
  }
  {
    std::lock_guard lock(mutex_);
    body_ = &body;
    num_items_ = num_items;
    next_ = 0;
    busy_ = threads_.size();
    ++job_;
  }
  started_.notify_all();
  work();
  std::unique_lock lock(mutex_);
  ended_.wait(lock, [this] { return busy_ == 0; });
}

void ThreadPool::work() {
  for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < num_items_;) (*body_)(i);
}

void ThreadPool::worker(uint64_t last_job) {
  std::unique_lock lock(mutex_);
  for (;; last_job = job_) {
    started_.wait(lock, [&] { return stopping_ || job_ != last_job; });
    if (stopping_) return;
    lock.unlock();
    work();
    lock.lock();
    if (--busy_ == 0) ended_.notify_one();
  }
}

void ThreadPool::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  started_.notify_all();
  for (auto& thread : threads_) thread.join();
  threads_.clear();
}

}  // namespace pdrt
