#include "page_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "check.h"

// Older C libraries lack it; Linux has it since 5.1.
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

// And this since 6.1.
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace pdrt {
namespace {

constexpr size_t kHugePage = 2 << 20;

size_t rounded_up(size_t value) { return (value + kHugePage - 1) / kHugePage * kHugePage; }

// Call it right after the system call that failed.
template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  const int code = errno;
  throw_os_error(code, join(parts...));
}

// mmap at an address where a huge page of the file can be mapped as one.
void* map_aligned(size_t size, int protection, int fd) {
  const size_t room = size + kHugePage;
  void* reserved = mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (reserved == MAP_FAILED) return MAP_FAILED;
  char* const first = static_cast<char*>(reserved);
  const size_t before =
      rounded_up(reinterpret_cast<uintptr_t>(first)) - reinterpret_cast<uintptr_t>(first);
  void* address = mmap(first + before, size, protection, MAP_SHARED | MAP_FIXED, fd, 0);
  const int code = errno;
  if (address == MAP_FAILED) {
    munmap(reserved, room);
    errno = code;
    return MAP_FAILED;
  }
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t end = before + (size + page - 1) / page * page;
  if (before > 0) munmap(first, before);
  if (end < room) munmap(first + end, room - end);
  return address;
}

}  // namespace

std::shared_ptr<Memory> Memory::create(const std::string& name, size_t num_bytes) {
  PDRT_CHECK(num_bytes > 0, "memory '", name, "': num_bytes is 0; give 1 or more");
  int fd = memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) fail("memory '", name, "' cannot be created");
  std::shared_ptr<Memory> memory(new Memory(fd));
  if (ftruncate(fd, static_cast<off_t>(num_bytes)) != 0)
    fail("memory '", name, "' cannot be given ", num_bytes, " bytes");
  if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0)
    fail("the size of memory '", name, "' cannot be sealed");
  memory->map(true);
  return memory;
}

std::shared_ptr<Memory> Memory::attach(int fd, bool writable) {
  int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (own < 0) fail("descriptor ", fd, " cannot be duplicated");
  std::shared_ptr<Memory> memory(new Memory(own));
  constexpr int kSized = F_SEAL_SHRINK | F_SEAL_GROW;
  int seals = fcntl(own, F_GET_SEALS);
  if (seals < 0) fail("descriptor ", fd, " is not a memory file");
  if ((seals & kSized) != kSized)
    throw_os_error(EPERM, join("the size of the memory file behind descriptor ", fd,
                               " is not sealed; it was not made by Memory.create"));
  memory->map(writable);
  return memory;
}

void Memory::map(bool writable) {
  struct stat status;
  if (fstat(fd_, &status) != 0) fail("the size of a memory file cannot be read");
  auto size = static_cast<size_t>(status.st_size);
  void* address = map_aligned(size, writable ? PROT_READ | PROT_WRITE : PROT_READ, fd_);
  if (address == MAP_FAILED) {
    bool sealed = writable && (fcntl(fd_, F_GET_SEALS) & F_SEAL_FUTURE_WRITE) != 0;
    fail("a memory file of ", size, " bytes cannot be mapped",
         sealed ? " for writing: it is sealed, map it read-only" : "");
  }
  address_ = address;
  num_bytes_ = size;
  writable_ = writable;
}

Memory::~Memory() {
  if (address_ != nullptr) munmap(address_, num_bytes_);
  close(fd_);
}

size_t Memory::use_huge_pages() const {
  PDRT_CHECK(writable_, "the memory is mapped read-only; huge pages are asked for by who fills it");
  char* const first = static_cast<char*>(address_);
  size_t huge = 0;
  for (size_t at = 0; at + kHugePage <= num_bytes_; at += kHugePage) {
    // A part that has no page yet is not taken for one that could be huge.
    volatile char* const byte = first + at;
    *byte = *byte;
    if (madvise(first + at, kHugePage, MADV_COLLAPSE) == 0) huge += kHugePage;
    // The kernel is too old, or does not give any: asking again would change nothing.
    if (huge == 0) break;
  }
  return huge;
}

void Memory::seal() const {
  if (fcntl(fd_, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) != 0)
    fail("a memory file of ", num_bytes_, " bytes cannot be sealed against writing");
}

}  // namespace pdrt
