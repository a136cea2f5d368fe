// bfloat16: the upper half of a float32.
#pragma once

#include <bit>
#include <cstdint>

namespace pdrt {

struct bfloat16 {
  uint16_t bits;
};

inline float to_float(float x) { return x; }
inline float to_float(bfloat16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }

inline void from_float(float x, float* out) { *out = x; }

// Rounds to nearest, ties to even; a NaN stays one.
inline void from_float(float x, bfloat16* out) {
  auto bits = std::bit_cast<uint32_t>(x);
  bool nan = x != x;
  out->bits = nan ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace pdrt
