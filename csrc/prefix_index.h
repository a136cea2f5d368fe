// Finds the page that holds a prefix: a hash table over the digests of indexed pages.
//
// A page's digest is keyed and covers its parent's digest and its own token ids, so it names the
// whole prefix up to its end. A hit is believed only when the token ids and the parent's digest are
// equal too. The table is derived state: a function of the page words and their side arrays.
#pragma once

#include <atomic>
#include <cstdint>

#include "ledger_memory.h"

namespace pdrt {

class PrefixIndex {
 public:
  using Tokens = const std::atomic<int32_t>*;  // page_size token ids

  explicit PrefixIndex(const LedgerMemory& memory);

  Digest digest_of(const Digest& parent, Tokens tokens) const;
  // The indexed page with this prefix, 0 if there is none.
  uint32_t find(const Digest& parent, Tokens tokens) const;
  uint32_t find(const Digest& digest) const;
  // Writes the side arrays that name what the page holds.
  void describe(uint32_t page, const Digest& parent, Tokens tokens);
  uint32_t first(uint32_t page) const { return bucket_of(m_.digests[page]); }  // of its chain
  void insert(uint32_t page);                                                  // by its digest
  void erase(uint32_t page);
  void clear();

 private:
  uint32_t& bucket_of(const Digest& digest) const { return m_.buckets[digest.low & mask_]; }

  const LedgerMemory& m_;
  uint64_t mask_;
};

}  // namespace pdrt
