// The derived lists of pages: free, cached (in order of last use) and quarantined. A page is in at
// most one of them, so they share one array of links; each list has a head of its own behind the
// pages.
#pragma once

#include <cstdint>

#include "ledger_memory.h"

namespace pdrt {

class PageList {
 public:
  PageList(Link* links, uint32_t head, uint32_t* count)
      : links_(links), head_(head), count_(count) {}

  void clear() {
    put(links_[head_], {head_, head_});
    put(*count_, 0);
  }
  uint32_t count() const { return *count_; }
  uint32_t front() const { return links_[head_].next; }  // first to leave
  uint32_t next(uint32_t page) const { return links_[page].next; }
  uint32_t end() const { return head_; }

  void push_front(uint32_t page) { insert(page, head_, links_[head_].next); }
  void push_back(uint32_t page) { insert(page, links_[head_].previous, head_); }
  void remove(uint32_t page) {
    const auto [previous, next] = links_[page];
    put(links_[previous].next, next);
    put(links_[next].previous, previous);
    put(*count_, *count_ - 1);
  }

 private:
  void insert(uint32_t page, uint32_t previous, uint32_t next) {
    put(links_[page], {previous, next});
    put(links_[previous].next, page);
    put(links_[next].previous, page);
    put(*count_, *count_ + 1);
  }

  Link* links_;
  uint32_t head_;
  uint32_t* count_;
};

}  // namespace pdrt
