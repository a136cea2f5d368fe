#include "page_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "check.h"

// Older C libraries lack it; Linux has it since 5.1.
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

namespace pdrt {
namespace {

// Call it right after the system call that failed.
template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  const int code = errno;
  throw_os_error(code, join(parts...));
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
  void* address =
      mmap(nullptr, size, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd_, 0);
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

void Memory::seal() const {
  if (fcntl(fd_, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) != 0)
    fail("a memory file of ", num_bytes_, " bytes cannot be sealed against writing");
}

}  // namespace pdrt
