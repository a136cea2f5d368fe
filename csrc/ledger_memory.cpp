#include "ledger_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <new>

namespace pdrt {
namespace {

constexpr uint64_t MAGIC = 0x7265676465'6c6470;  // "pdledger"
constexpr uint32_t VERSION = 3;
constexpr uint32_t NUM_PAGE_LISTS = 3;
constexpr int SIZE_SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

void check_range(const char* name, uint32_t value, uint32_t least, uint32_t most) {
  PDRT_CHECK(least <= value && value <= most, name, " is ", value, "; give ", least, " to ", most);
}

class Cursor {
 public:
  explicit Cursor(uintptr_t base) : base_(base) {}

  template <class T>
  void place(T*& region, size_t count) {
    constexpr size_t LINE = 64;
    offset_ = (offset_ + LINE - 1) / LINE * LINE;
    region = reinterpret_cast<T*>(base_ + offset_);
    offset_ += count * sizeof(T);
  }
  size_t offset() const { return offset_; }

 private:
  uintptr_t base_;
  size_t offset_ = 0;
};

}  // namespace

double monotonic_seconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

uint32_t num_tokens_with_kv(const LedgerMemory& memory, uint32_t slot) {
  return get(memory.slots[slot].num_prompt_tokens) + get(memory.slots[slot].max_tokens) - 1;
}

void Geometry::check() const {
  check_range("page_size", page_size, 1, 1u << 16);
  check_range("max_model_len", max_model_len, 2, 1u << 24);
  check_range("num_slots", num_slots, 1, 1u << 16);
  check_range("num_pages", num_pages, 1, 1u << 28);
  check_range("sealed_bound", sealed_bound, 1, num_slots);
  check_range("max_params_bytes", max_params_bytes, 0, 1u << 20);
  check_range("max_top_logprobs", max_top_logprobs, 0, 1u << 10);
  check_range("lock_timeout_ms", lock_timeout_ms, 1, 1u << 20);
  PDRT_CHECK(num_pages >= max_pages_per_slot(), "num_pages is ", num_pages,
             ", but one request of max_model_len ", max_model_len, " needs ", max_pages_per_slot(),
             " pages of ", page_size, " tokens; give num_pages ", max_pages_per_slot(),
             " or more, or a smaller max_model_len");
}

void PublishedCounts::put(const PageCounts& counts) {
  const uint64_t next = version_.load(std::memory_order_relaxed) + 1;
  auto& copy = copies_[next % 2];
  pdrt::put(copy[0], counts.free);
  pdrt::put(copy[1], counts.prefilling);
  pdrt::put(copy[2], counts.sealed);
  pdrt::put(copy[3], counts.decoding);
  pdrt::put(copy[4], counts.cached);
  pdrt::put(copy[5], counts.quarantined);
  pdrt::put(copy[6], counts.total);
  pdrt::put(version_, next);
}

PageCounts PublishedCounts::get() const {
  for (;;) {
    const uint64_t version = pdrt::get(version_);
    const auto& copy = copies_[version % 2];
    const PageCounts counts{.free = pdrt::get(copy[0]),
                            .prefilling = pdrt::get(copy[1]),
                            .sealed = pdrt::get(copy[2]),
                            .decoding = pdrt::get(copy[3]),
                            .cached = pdrt::get(copy[4]),
                            .quarantined = pdrt::get(copy[5]),
                            .total = pdrt::get(copy[6])};
    // This copy is written again only after the version has moved on.
    if (pdrt::get(version_) == version) return counts;
  }
}

LedgerMemory::LedgerMemory(const Geometry& geometry, std::string_view name_space)
    : geometry_(geometry) {
  geometry.check();
  num_bytes_ = place(0);
  fd_ = memfd_create("pdrt-ledger", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd_ < 0) throw_os_error(errno, "cannot make the ledger's memory file");
  try {
    if (ftruncate(fd_, static_cast<off_t>(num_bytes_)) != 0 ||
        fcntl(fd_, F_ADD_SEALS, SIZE_SEALS) != 0) {
      throw_os_error(errno, join("cannot size the ledger's memory file to ", num_bytes_, " bytes"));
    }
    map();
    format(name_space);
  } catch (...) {
    close(fd_);
    throw;
  }
}

LedgerMemory::LedgerMemory(int fd) {
  Header found;
  const ssize_t got = pread(fd, static_cast<void*>(&found), sizeof(Header), 0);
  if (got < 0) throw_os_error(errno, join("cannot read a ledger from descriptor ", fd));
  PDRT_CHECK(got == sizeof(Header) && found.magic == MAGIC, "descriptor ", fd, " is not a ledger");
  PDRT_CHECK(found.version == VERSION && found.header_bytes == sizeof(Header),
             "the ledger on descriptor ", fd, " has version ", found.version, " and a header of ",
             found.header_bytes, " bytes, this build has version ", VERSION, " and ",
             sizeof(Header), "; run the same build in all processes");
  geometry_ = found.geometry;
  geometry_.check();
  num_bytes_ = place(0);
  struct stat file;
  if (fstat(fd, &file) != 0) throw_os_error(errno, "cannot read the size of the ledger");
  PDRT_CHECK(found.num_bytes == num_bytes_ && static_cast<size_t>(file.st_size) == num_bytes_,
             "the ledger on descriptor ", fd, " says ", found.num_bytes, " bytes and has ",
             file.st_size, ", its geometry asks for ", num_bytes_,
             "; run the same build in all processes");
  fd_ = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (fd_ < 0) throw_os_error(errno, join("cannot duplicate descriptor ", fd));
  try {
    map();
  } catch (...) {
    close(fd_);
    throw;
  }
}

LedgerMemory::~LedgerMemory() {
  munmap(header, num_bytes_);
  close(fd_);
}

std::atomic<uint8_t>* LedgerMemory::params_of(uint32_t slot) const {
  return params + size_t{slot} * geometry_.max_params_bytes;
}

size_t LedgerMemory::place(uintptr_t base) {
  const size_t slots_count = geometry_.num_slots, pages = geometry_.num_page_ids();
  const size_t token_count = slots_count * geometry_.max_model_len;
  Cursor cursor(base);
  cursor.place(header, 1);
  cursor.place(slot_words, slots_count);
  cursor.place(ranks, slots_count);
  cursor.place(lengths, slots_count);
  cursor.place(slots, slots_count);
  cursor.place(lists, slots_count * geometry_.max_pages_per_slot());
  cursor.place(params, slots_count * geometry_.max_params_bytes);
  cursor.place(tokens, token_count);
  cursor.place(logprobs, token_count);
  cursor.place(top_ids, token_count * geometry_.max_top_logprobs);
  cursor.place(top_logprobs, token_count * geometry_.max_top_logprobs);
  cursor.place(page_words, pages);
  cursor.place(tags, pages);
  cursor.place(digests, pages);
  cursor.place(parents, pages);
  cursor.place(page_tokens, pages * geometry_.page_size);
  cursor.place(last_use, pages);
  cursor.place(readers, pages);
  cursor.place(links, pages + NUM_PAGE_LISTS);
  cursor.place(buckets, std::bit_ceil(pages));
  cursor.place(chains, pages);
  cursor.place(scratch, pages);
  cursor.place(scratch_classes, pages);
  return cursor.offset();
}

void LedgerMemory::map() {
  void* base = mmap(nullptr, num_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  if (base == MAP_FAILED) {
    throw_os_error(errno, join("cannot map the ledger's ", num_bytes_, " bytes"));
  }
  place(reinterpret_cast<uintptr_t>(base));
}

void LedgerMemory::format(std::string_view name_space) {
  header->version = VERSION;
  header->header_bytes = sizeof(Header);
  header->num_bytes = num_bytes_;
  header->geometry = geometry_;
  if (getrandom(&header->key, sizeof header->key, 0) != sizeof header->key) {
    throw_os_error(errno, "cannot draw the key of the prefix index");
  }
  header->root = siphash128(header->key, name_space.data(), name_space.size());
  header->lock.init();
  for (uint32_t slot = 0; slot < geometry_.num_slots; ++slot) slot_words[slot].put(SlotWord{});
  for (uint32_t page = 1; page <= geometry_.num_pages; ++page) page_words[page].put(PageWord{});
  header->magic = MAGIC;
}

}  // namespace pdrt
