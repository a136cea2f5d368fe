// SipHash-2-4 with 128-bit output (Aumasson and Bernstein), fed in 64-bit little-endian words.
// Keyed, so that nobody who does not know the key can choose two prompts with equal digests.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "check.h"

namespace pdrt {

static_assert(std::endian::native == std::endian::little, "words are taken as they lie in memory");

struct Digest {
  uint64_t low = 0, high = 0;
  bool operator==(const Digest&) const = default;
};

class SipHash {
 public:
  explicit SipHash(const Digest& key)
      : v0_(0x736f6d6570736575ULL ^ key.low),
        v1_(0x646f72616e646f6dULL ^ key.high ^ 0xee),
        v2_(0x6c7967656e657261ULL ^ key.low),
        v3_(0x7465646279746573ULL ^ key.high) {}

  void absorb(uint64_t word) {
    v3_ ^= word;
    rounds(2);
    v0_ ^= word;
  }

  // `tail` holds the last num_bytes % 8 bytes of the message; the words before it were absorbed.
  Digest finish(uint64_t tail, uint64_t num_bytes) {
    absorb(tail | num_bytes << 56);
    v2_ ^= 0xee;
    rounds(4);
    Digest digest{.low = v0_ ^ v1_ ^ v2_ ^ v3_};
    v1_ ^= 0xdd;
    rounds(4);
    digest.high = v0_ ^ v1_ ^ v2_ ^ v3_;
    return digest;
  }

 private:
  void rounds(int count) {
    for (int i = 0; i < count; ++i) {
      v0_ += v1_, v2_ += v3_;
      v1_ = std::rotl(v1_, 13) ^ v0_, v3_ = std::rotl(v3_, 16) ^ v2_;
      v0_ = std::rotl(v0_, 32);
      v2_ += v1_, v0_ += v3_;
      v1_ = std::rotl(v1_, 17) ^ v2_, v3_ = std::rotl(v3_, 21) ^ v0_;
      v2_ = std::rotl(v2_, 32);
    }
  }

  uint64_t v0_, v1_, v2_, v3_;
};

inline Digest siphash128(const Digest& key, const void* data, size_t num_bytes) {
  SipHash hash(key);
  const char* bytes = static_cast<const char*>(data);
  uint64_t word = 0;
  for (size_t at = 0; at + 8 <= num_bytes; at += 8) {
    std::memcpy(&word, bytes + at, 8);
    hash.absorb(word);
  }
  word = 0;
  if (num_bytes % 8 != 0) std::memcpy(&word, bytes + num_bytes / 8 * 8, num_bytes % 8);
  return hash.finish(word, num_bytes);
}

}  // namespace pdrt
