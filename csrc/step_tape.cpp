#include "step_tape.h"

namespace pdrt {

thread_local StepTape* StepTape::recording_ = nullptr;

void StepTape::start() {
  PDRT_CHECK(recording_ == nullptr, "a tape records already; stop it first");
  recording_ = this;
}

void StepTape::stop() {
  if (recording_ == this) recording_ = nullptr;
}

void StepTape::replay(int64_t num_rows) const {
  PDRT_CHECK(recording_ == nullptr, "a tape records; stop it before one is replayed");
  PDRT_CHECK(0 <= num_rows && num_rows <= max_rows_, "num_rows is ", num_rows,
             "; the tape was recorded with ", max_rows_);
  for (const Call& call : calls_) call(num_rows);
}

void StepTape::add(int64_t num_rows, Call call) {
  PDRT_CHECK(calls_.empty() || num_rows == max_rows_, "a kernel with ", num_rows,
             " rows follows those with ", max_rows_, "; give all of a tape as many");
  max_rows_ = num_rows;
  calls_.push_back(std::move(call));
}

}  // namespace pdrt
