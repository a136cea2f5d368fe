#include "thread_pool.h"

#include <pthread.h>

#include <memory>
#include <system_error>

#include "check.h"

namespace pdrt {
namespace {

std::unique_ptr<ThreadPool>& current() {
  static auto pool = std::make_unique<ThreadPool>();
  return pool;
}

// About 20 us, a few times what Python takes from one kernel to the next.
constexpr int kSpins = 1000;

void pause() {
#ifdef __x86_64__
  __builtin_ia32_pause();
#endif
}

// Returns when the word is another than `value`. What was written before it changed is seen then.
void wait_while(const std::atomic<uint32_t>& word, uint32_t value) {
  for (int i = 0; i < kSpins; ++i, pause()) {
    if (word.load(std::memory_order_acquire) != value) return;
  }
  word.wait(value, std::memory_order_acquire);
}

// The child's copy of the old pool has threads that do not exist: it is left alone, never joined.
void renew_in_child() {
  current().release();
  current() = std::make_unique<ThreadPool>();
}

void bind_to(pthread_t thread, int core) {
  PDRT_CHECK(0 <= core && core < CPU_SETSIZE, "core is ", core, "; give 0 to ", CPU_SETSIZE - 1);
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  if (const int error = pthread_setaffinity_np(thread, sizeof set, &set)) {
    throw std::system_error(error, std::generic_category(),
                            "a thread cannot be bound to core " + std::to_string(core));
  }
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
  start(num_threads);
}

void ThreadPool::set_cores(const std::vector<int>& cores) {
  PDRT_CHECK(!cores.empty(), "cores is empty; give at least one");
  std::lock_guard caller(callers_);
  start(static_cast<int>(cores.size()));
  for (size_t i = 0; i < helpers_.size(); ++i) {
    bind_to(helpers_[i]->thread.native_handle(), cores[i + 1]);
  }
  bind_to(pthread_self(), cores[0]);  // last: a new thread inherits its maker's core
}

void ThreadPool::use(const std::vector<int>& threads) {
  std::lock_guard caller(callers_);
  const int last = static_cast<int>(helpers_.size());
  for (const int number : threads) {
    PDRT_CHECK(0 <= number && number <= last, "thread ", number, " is none of 0 to ", last);
  }
  for (auto& helper : helpers_) helper->used = false;
  for (const int number : threads) {
    if (number > 0) helpers_[static_cast<size_t>(number) - 1]->used = true;
  }
  take_turns();
}

void ThreadPool::take_turns() {
  num_used_ = 0;
  for (auto& helper : helpers_) {
    if (helper->used) helper->turn = ++num_used_;
  }
}

void ThreadPool::run(int64_t num_items, const Body& body) { share(num_items, false, body); }

void ThreadPool::run_stretches(int64_t num_items, const Body& body) {
  share(num_items, true, body);
}

void ThreadPool::share(int64_t num_items, bool in_stretches, const Body& body) {
  std::lock_guard caller(callers_);
  if (num_used_ == 0 || num_items <= 1) {
    for (int64_t i = 0; i < num_items; ++i) body(i);
    return;
  }
  body_ = &body;
  num_stretches_ = in_stretches ? num_used_ + 1 : 1;
  for (int64_t s = 0; s < num_stretches_; ++s) {
    stretches_[s].next.store(num_items * s / num_stretches_, std::memory_order_relaxed);
    stretches_[s].end = num_items * (s + 1) / num_stretches_;
  }
  busy_.store(num_used_, std::memory_order_relaxed);
  for (auto& helper : helpers_) {
    if (helper->used) wake(*helper);
  }
  work(0);
  for (uint32_t busy; (busy = busy_.load(std::memory_order_acquire)) != 0;) wait_while(busy_, busy);
}

void ThreadPool::work(uint32_t turn) {
  for (uint32_t s = 0; s < num_stretches_; ++s) {
    Stretch& stretch = stretches_[(turn + s) % num_stretches_];
    for (int64_t i; (i = stretch.next.fetch_add(1, std::memory_order_relaxed)) < stretch.end;)
      (*body_)(i);
  }
}

void ThreadPool::wake(Helper& helper) {
  helper.jobs.fetch_add(1, std::memory_order_release);
  helper.jobs.notify_one();
}

void ThreadPool::help(Helper& helper) {
  for (uint32_t seen = 0;; ++seen) {
    wait_while(helper.jobs, seen);
    if (stopping_) return;
    work(helper.turn);
    if (busy_.fetch_sub(1, std::memory_order_release) == 1) busy_.notify_one();
  }
}

void ThreadPool::start(int num_threads) {
  stop();
  helpers_.reserve(static_cast<size_t>(num_threads));
  try {
    for (int i = 1; i < num_threads; ++i) {
      auto helper = std::make_unique<Helper>();
      helper->thread = std::thread(&ThreadPool::help, this, std::ref(*helper));
      helpers_.push_back(std::move(helper));
    }
  } catch (...) {  // the system has no thread for us: none is better than some
    stop();
    throw;
  }
  stretches_ = std::make_unique<Stretch[]>(static_cast<size_t>(num_threads));
  take_turns();
}

void ThreadPool::stop() {
  stopping_ = true;
  for (auto& helper : helpers_) wake(*helper);
  for (auto& helper : helpers_) helper->thread.join();
  helpers_.clear();
  num_used_ = 0;
  stopping_ = false;
}

}  // namespace pdrt
