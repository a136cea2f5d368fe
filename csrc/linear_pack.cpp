// Rows into panels, and back.
#include <algorithm>
#include <cstring>
#include <vector>

#include "check.h"
#include "cpu_linear.h"
#include "linear_int8.h"
#include "simd_portable.h"

namespace pdrt {
namespace {

constexpr int8_t kSign = -128;  // by exclusive or: q <-> the byte 128 + q

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

// A panel's words of 4 bytes: an input, a pair of them, or four.
uint32_t* lane(const PackedShape& shape, void* packed, const Place& at) {
  char* panel = static_cast<char*>(packed) + at.panel * shape.panel_bytes();
  return reinterpret_cast<uint32_t*>(panel) + at.lane;
}

int64_t row_bytes(const PackedShape& shape) {
  return shape.num_inputs * (shape.is_bfloat16 ? 2 : 4);
}

// The first words of `count` rows that stand `stride` bytes apart, to as many lanes from `to` on. A
// cache line of each row at a time, so that the lines of the panel which they go to stay in the
// cache until they are full.
void pack_words(const char* rows, int64_t stride, int64_t num_words, int64_t count, uint32_t* to) {
  constexpr int64_t kSteps = 16;
  for (int64_t step = 0; step < num_words; step += kSteps) {
    const int64_t steps = std::min(kSteps, num_words - step);
    for (int64_t r = 0; r < count; ++r) {
      uint32_t words[kSteps];
      std::memcpy(words, rows + r * stride + step * 4, steps * 4);
      for (int64_t i = 0; i < steps; ++i) to[(step + i) * kPanel + r] = words[i];
    }
  }
}

void pack_plain(const PackedShape& shape, const char* rows, int64_t count, uint32_t* to) {
  const int64_t bytes = row_bytes(shape), whole = bytes / 4;
  pack_words(rows, bytes, whole, count, to);
  if (bytes % 4 == 0) return;
  for (int64_t r = 0; r < count; ++r) {
    uint16_t last;
    std::memcpy(&last, rows + r * bytes + whole * 4, 2);
    to[whole * kPanel + r] = last;  // the other half of the pair is 0
  }
}

template <typename T>
void pack_int8(const PackedShape& shape, const T* rows, int64_t count, uint32_t* to) {
  const int64_t stride = shape.num_steps() * 4;
  std::vector<int8_t> bytes(static_cast<size_t>(count * stride));
  auto* scales = reinterpret_cast<float*>(to + shape.num_steps() * kPanel);
  for (int64_t r = 0; r < count; ++r)
    scales[r] = Quantizer<Portable, T>::write(rows + r * shape.num_inputs, shape.num_inputs,
                                              bytes.data() + r * stride)
                    .scale;
  for (int8_t& byte : bytes) byte ^= kSign;
  pack_words(reinterpret_cast<const char*>(bytes.data()), stride, shape.num_steps(), count, to);
}

void pack_run(const PackedShape& shape, const char* rows, int64_t count, uint32_t* to) {
  if (!shape.is_int8) return pack_plain(shape, rows, count, to);
  shape.is_bfloat16 ? pack_int8(shape, reinterpret_cast<const bfloat16*>(rows), count, to)
                    : pack_int8(shape, reinterpret_cast<const float*>(rows), count, to);
}

template <typename T>
void unpack_int8(const PackedShape& shape, const uint32_t* from, T* row) {
  float scale;
  std::memcpy(&scale, from + shape.num_steps() * kPanel, sizeof scale);
  for (int64_t i = 0; i < shape.num_inputs; ++i) {
    const auto* four = reinterpret_cast<const int8_t*>(from + i / 4 * kPanel);
    from_float(scale * static_cast<int8_t>(four[i % 4] ^ kSign), row + i);
  }
}

void unpack_plain(const PackedShape& shape, const uint32_t* from, char* row) {
  const int64_t bytes = row_bytes(shape), whole = bytes / 4;
  for (int64_t step = 0; step < whole; ++step) std::memcpy(row + step * 4, from + step * kPanel, 4);
  if (bytes % 4) std::memcpy(row + whole * 4, from + whole * kPanel, 2);
}

void unpack(const PackedShape& shape, const uint32_t* from, char* row) {
  if (!shape.is_int8) return unpack_plain(shape, from, row);
  shape.is_bfloat16 ? unpack_int8(shape, from, reinterpret_cast<bfloat16*>(row))
                    : unpack_int8(shape, from, reinterpret_cast<float*>(row));
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
