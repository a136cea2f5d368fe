// Choosing the next token of each row of logits; docs/sampling.md has the formulas.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace pdrt {

// How one row's token is chosen. ROW in kernels/cpu_draw.py has this layout.
struct DrawRow {
  uint64_t choice;    // address of [vocab_size] logits to choose from; 0: the model's own
  uint64_t seed;      // the request's
  double top_p;       // 1: all
  float temperature;  // 0: the largest
  float log_min_p;    // -infinity: all
  int32_t top_k;      // below 1: all
  uint32_t position;  // the token's, counted from the prompt's first
};

struct Drawn {
  int32_t token;
  float logprob;     // in the model's own distribution; NaN as log_total
  double log_total;  // of exp of the model's logits; NaN where they are not all numbers
};

// What a thread works with, kept from row to row.
struct DrawScratch {
  std::vector<float> maxima;                        // of blocks of logits
  std::vector<float> bounds;                        // a copy to select in
  std::vector<float> weights;                       // [vocab_size]
  std::vector<double> sums;                         // of blocks of weights
  std::vector<std::pair<float, int32_t>> kept;      // of some tokens, by id: weight and id
  std::vector<std::pair<float, int32_t>> unsorted;  // a copy to select in
};

// For one instruction set.
Drawn draw_portable(const DrawRow& row, const float* logits, int64_t vocab_size,
                    DrawScratch& scratch);
Drawn draw_avx2(const DrawRow& row, const float* logits, int64_t vocab_size, DrawScratch& scratch);
Drawn draw_avx512(const DrawRow& row, const float* logits, int64_t vocab_size,
                  DrawScratch& scratch);

// All rows, shared among the threads where that pays. A row's bits depend on that row alone.
void cpu_draw(const DrawRow* rows, const float* logits, int64_t num_rows, int64_t vocab_size,
              Drawn* drawn);

}  // namespace pdrt
