// Memory that processes share: a memfd, sized once, passed by descriptor and mapped by each.
//
// It has no name in any file system, so nothing is left behind when the last process ends. Both the
// KV pool and the weights live in one of these.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace pdrt {

class Memory : public std::enable_shared_from_this<Memory> {
 public:
  // Makes a file of num_bytes zeros, whose size is sealed, and maps it writable. No byte is
  // touched. Throws std::system_error.
  static std::shared_ptr<Memory> create(const std::string& name, size_t num_bytes);

  // Maps the file behind fd, which stays the caller's. A file whose size may still change is
  // refused: reading past its end would be a SIGBUS. Throws std::system_error.
  static std::shared_ptr<Memory> attach(int fd, bool writable);

  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // Takes memory for all of the file now, in pages of 2 MB as far as the system has them, and
  // returns how many bytes got such. Reading gigabytes once a step is half again as fast with them.
  // Needs a writable mapping; what the file holds stays.
  size_t use_huge_pages() const;

  // Refuses every later writable mapping; those that exist stay writable. Throws std::system_error.
  void seal() const;

  int fd() const { return fd_; }
  size_t num_bytes() const { return num_bytes_; }
  void* address() const { return address_; }
  bool writable() const { return writable_; }

 private:
  explicit Memory(int fd) : fd_(fd) {}
  void map(bool writable);

  int fd_;
  size_t num_bytes_ = 0;
  void* address_ = nullptr;
  bool writable_ = false;
};

}  // namespace pdrt
