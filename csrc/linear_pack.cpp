// Rows into panels, and back.
#include <algorithm>
#include <cstring>

#include "check.h"
#include "cpu_linear.h"

namespace pdrt {
namespace {

// Where a row of the weight matrix stands, and how many from it on stand in lanes side by side.
struct Place {
  int64_t panel, lane, run;
};

Place place(const PackedShape& shape, int64_t row) {
  if (!shape.gated) return {row / kPanel, row % kPanel, kPanel - row % kPanel};
  constexpr int64_t kHalf = kPanel / 2;
  const int64_t size = shape.num_outputs / 2, half = row / size, i = row % size;
  return {i / kHalf, half * kHalf + i % kHalf, std::min(kHalf - i % kHalf, size - i)};
}

// A panel is words of 4 bytes, [steps][32]: an input, or a pair of them.
int64_t num_steps(const PackedShape& shape) {
  return shape.is_bfloat16 ? (shape.num_inputs + 1) / 2 : shape.num_inputs;
}

int64_t row_bytes(const PackedShape& shape) {
  return shape.num_inputs * (shape.is_bfloat16 ? 2 : 4);
}

uint32_t* lane(const PackedShape& shape, void* packed, const Place& at) {
  return static_cast<uint32_t*>(packed) + at.panel * num_steps(shape) * kPanel + at.lane;
}

// `count` rows from `rows` on to as many lanes from `to` on. A cache line of each row at a time, so
// that the lines of the panel which they go to stay in the cache until they are full.
void pack_run(const PackedShape& shape, const char* rows, int64_t count, uint32_t* to) {
  constexpr int64_t kSteps = 16;
  const int64_t bytes = row_bytes(shape), whole = bytes / 4;
  for (int64_t step = 0; step < whole; step += kSteps) {
    const int64_t steps = std::min(kSteps, whole - step);
    for (int64_t r = 0; r < count; ++r) {
      uint32_t words[kSteps];
      std::memcpy(words, rows + r * bytes + step * 4, steps * 4);
      for (int64_t i = 0; i < steps; ++i) to[(step + i) * kPanel + r] = words[i];
    }
  }
  if (bytes % 4 == 0) return;
  for (int64_t r = 0; r < count; ++r) {
    uint16_t last;
    std::memcpy(&last, rows + r * bytes + whole * 4, 2);
    to[whole * kPanel + r] = last;  // the other half of the pair is 0
  }
}

void unpack(const PackedShape& shape, const uint32_t* from, char* row) {
  const int64_t bytes = row_bytes(shape), whole = bytes / 4;
  for (int64_t step = 0; step < whole; ++step) std::memcpy(row + step * 4, from + step * kPanel, 4);
  if (bytes % 4) std::memcpy(row + whole * 4, from + whole * kPanel, 2);
}

}  // namespace

void pack_rows(const PackedShape& shape, void* packed, const void* rows, int64_t first_row,
               int64_t num_rows) {
  const char* from = static_cast<const char*>(rows);
  for (int64_t done = 0; done < num_rows;) {
    const Place at = place(shape, first_row + done);
    const int64_t count = std::min(at.run, num_rows - done);
    pack_run(shape, from + done * row_bytes(shape), count, lane(shape, packed, at));
    done += count;
  }
}

void gather_rows(const PackedShape& shape, const void* packed, const int32_t* ids, int64_t num_rows,
                 void* out) {
  for (int64_t i = 0; i < num_rows; ++i)
    PDRT_CHECK(ids[i] >= 0 && ids[i] < shape.num_outputs, "ids[", i, "] is ", ids[i],
               ", the weight has ", shape.num_outputs, " rows");
  char* to = static_cast<char*>(out);
  for (int64_t i = 0; i < num_rows; ++i)
    unpack(shape, lane(shape, const_cast<void*>(packed), place(shape, ids[i])),
           to + i * row_bytes(shape));
}

}  // namespace pdrt
