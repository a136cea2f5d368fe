// Calls of CPU kernels, written down once and made again for each step: what a CUDA graph is on a
// GPU.
//
// Between two kernels of a decode step Python takes longer than some of them do, mostly for
// fetching its own code and objects, which the weights have driven out of the caches. A tape holds
// what a call is made of, addresses and sizes. What differs from step to step is read when it is
// replayed: the number of rows, and what stands in the tensors. Whoever records keeps the tensors.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "check.h"

namespace pdrt {

class StepTape {
 public:
  using Call = std::function<void(int64_t num_rows)>;

  StepTape() = default;
  ~StepTape() { stop(); }
  StepTape(const StepTape&) = delete;
  StepTape& operator=(const StepTape&) = delete;

  // From here on, kernels that this thread calls are written down and not run. Throws
  // std::invalid_argument where another tape records already.
  void start();
  void stop();

  // Runs all calls, in their order. Throws std::invalid_argument for more rows than were recorded,
  // and what a kernel throws.
  void replay(int64_t num_rows) const;

  int64_t num_calls() const { return static_cast<int64_t>(calls_.size()); }

  // Runs a kernel, or writes it down where this thread records. `call` takes the number of rows.
  template <typename Kernel>
  static void run(int64_t num_rows, Kernel call) {
    if (recording_ == nullptr) return call(num_rows);
    recording_->add(num_rows, std::move(call));
  }

 private:
  void add(int64_t num_rows, Call call);

  static thread_local StepTape* recording_;

  std::vector<Call> calls_;
  int64_t max_rows_ = 0;
};

}  // namespace pdrt
