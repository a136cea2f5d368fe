// A slab of device memory that processes share, as page_memory.h is for the host.
//
//   vmm   cuMemCreate, a descriptor, a mapping in each process. Memory lives while any of them
//   does,
//         so a process that holds the descriptor, with or without a context, keeps it.
//   ipc   cuMemAlloc and a 64-byte handle; the maker must outlive the others.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "context.h"
#include "descriptor.h"
#include "ranges.h"

namespace pdrt::cuda {

using IpcHandle = std::array<char, sizeof(CUipcMemHandle)>;

class DeviceMemory : public std::enable_shared_from_this<DeviceMemory> {
 public:
  // Throws CudaOutOfMemory with the flag to change; CudaError where the device has no such export.
  static std::shared_ptr<DeviceMemory> create_vmm(int device, size_t num_bytes);
  static std::shared_ptr<DeviceMemory> create_ipc(int device, size_t num_bytes);

  // num_bytes is what the maker asked for. fd stays the caller's.
  static std::shared_ptr<DeviceMemory> attach_fd(int device, int fd, size_t num_bytes,
                                                 bool writable);
  static std::shared_ptr<DeviceMemory> attach_ipc(int device, const IpcHandle& handle,
                                                  size_t num_bytes, bool writable);

  // Waits for the device, so that no kernel runs into a hole, and gives everything back.
  ~DeviceMemory();

  int device() const { return context_.device(); }
  void* address() const { return reinterpret_cast<void*>(range_->address()); }
  size_t num_bytes() const { return num_bytes_; }
  size_t mapped_bytes() const { return mapped_bytes_; }
  bool writable() const { return writable_; }
  bool enforced() const { return enforced_; }  // false: read-only by agreement
  bool is_vmm() const { return fd_.get() >= 0; }
  int fd() const { return fd_.get(); }  // -1 for ipc
  const IpcHandle& ipc_handle() const { return ipc_handle_; }

 private:
  DeviceMemory(int device, size_t num_bytes);
  void map(const Allocation& allocation, bool writable);
  Allocation allocate() const;
  Descriptor export_fd(const Allocation& allocation) const;

  PrimaryContext context_;  // first, so that it is released last
  size_t num_bytes_;
  size_t mapped_bytes_;
  bool writable_ = true;
  bool enforced_ = true;
  Descriptor fd_;
  IpcHandle ipc_handle_{};
  std::unique_ptr<Range> range_;
};

// Sizes of VMM allocations on a device are multiples of it. Throws CudaError.
size_t vmm_granularity(int device);

}  // namespace pdrt::cuda
