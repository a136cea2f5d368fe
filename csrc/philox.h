// Philox4x32-10: random numbers as a function of (key, counter), without any state.
//
// Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. A token
// that is sampled again after a preemption, or by another worker, gets the same number.
#pragma once

#include <cstdint>

namespace pdrt {

// The first word of Philox with the counter (offset, 0, 0, 0).
inline uint32_t philox_word(uint64_t key, uint32_t offset) {
  constexpr int kRounds = 10;
  uint32_t counter[4] = {offset, 0, 0, 0};
  auto low = static_cast<uint32_t>(key), high = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t first = uint64_t{0xD2511F53} * counter[0];
    const uint64_t second = uint64_t{0xCD9E8D57} * counter[2];
    const uint32_t next[4] = {
        static_cast<uint32_t>(second >> 32) ^ counter[1] ^ low, static_cast<uint32_t>(second),
        static_cast<uint32_t>(first >> 32) ^ counter[3] ^ high, static_cast<uint32_t>(first)};
    for (int i = 0; i < 4; ++i) counter[i] = next[i];
    low += 0x9E3779B9;
    high += 0xBB67AE85;
  }
  return counter[0];
}

// A number in [0, 1): Triton's tl.rand(seed, offset).
inline float philox_uniform(uint64_t seed, uint32_t offset) {
  const uint32_t word = philox_word(seed, offset);
  // Just under 2^-31, so that the largest 31-bit number, rounded up to 2^31, stays below 1.
  return static_cast<float>(word >> 31 ? ~word : word) * 4.6566127342e-10f;
}

}  // namespace pdrt
