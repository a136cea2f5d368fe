#include "prefix_index.h"

#include <bit>

namespace pdrt {

PrefixIndex::PrefixIndex(const LedgerMemory& memory)
    : m_(memory), mask_(std::bit_ceil(size_t{memory.geometry().num_page_ids()}) - 1) {}

Digest PrefixIndex::digest_of(const Digest& parent, Tokens tokens) const {
  const uint32_t count = m_.geometry().page_size;
  const auto token = [&](uint32_t i) -> uint64_t {
    return static_cast<uint32_t>(tokens[i].load(std::memory_order_relaxed));
  };
  SipHash hash(m_.header->key);
  hash.absorb(parent.low);
  hash.absorb(parent.high);
  for (uint32_t i = 0; i + 2 <= count; i += 2) hash.absorb(token(i) | token(i + 1) << 32);
  return hash.finish(count % 2 == 0 ? 0 : token(count - 1), sizeof(Digest) + uint64_t{count} * 4);
}

uint32_t PrefixIndex::find(const Digest& digest) const {
  uint32_t page = bucket_of(digest);
  while (page != 0 && m_.digests[page] != digest) page = m_.chains[page];
  return page;
}

uint32_t PrefixIndex::find(const Digest& parent, Tokens tokens) const {
  const uint32_t page = find(digest_of(parent, tokens));
  if (page == 0 || m_.parents[page] != parent) return 0;
  for (uint32_t i = 0; i < m_.geometry().page_size; ++i) {
    if (m_.tokens_in(page)[i] != tokens[i].load(std::memory_order_relaxed)) return 0;
  }
  return page;
}

void PrefixIndex::describe(uint32_t page, const Digest& parent, Tokens tokens) {
  for (uint32_t i = 0; i < m_.geometry().page_size; ++i) {
    put(m_.tokens_in(page)[i], tokens[i].load(std::memory_order_relaxed));
  }
  put(m_.parents[page], parent);
  put(m_.digests[page], digest_of(parent, tokens));
}

void PrefixIndex::insert(uint32_t page) {
  uint32_t& bucket = bucket_of(m_.digests[page]);
  put(m_.chains[page], bucket);
  put(bucket, page);
}

void PrefixIndex::erase(uint32_t page) {
  uint32_t* at = &bucket_of(m_.digests[page]);
  while (*at != page) at = &m_.chains[*at];
  put(*at, m_.chains[page]);
}

void PrefixIndex::clear() {
  for (uint64_t i = 0; i <= mask_; ++i) put(m_.buckets[i], 0);
}

}  // namespace pdrt
