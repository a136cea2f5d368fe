// Ranges of device addresses by where they come from. Each gives back in its destructor what it
// took, in the reverse order. The device's context must be current in all of them, destructors
// included; a destructor ignores errors, as the context may be broken or the process at its end.
#pragma once

#include <cuda.h>

#include <cstddef>

namespace pdrt::cuda {

class Range {
 public:
  virtual ~Range() = default;
  Range() = default;
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;

  CUdeviceptr address() const { return address_; }

 protected:
  CUdeviceptr address_ = 0;
};

// Physical memory by cuMemCreate or by import. Mappings and descriptors keep the memory, so this
// handle is needed only until both are made.
class Allocation {
 public:
  explicit Allocation(CUmemGenericAllocationHandle handle) : handle_(handle) {}
  ~Allocation();
  Allocation(const Allocation&) = delete;
  Allocation& operator=(const Allocation&) = delete;

  CUmemGenericAllocationHandle get() const { return handle_; }

 private:
  CUmemGenericAllocationHandle handle_;
};

// Reserved addresses with an allocation mapped to them.
class MappedRange : public Range {
 public:
  MappedRange(const Allocation& allocation, size_t num_bytes);
  ~MappedRange() override;

  // Lets the device read, and write if asked. False where the driver knows no read-only mapping and
  // the range became writable instead.
  bool allow(int device, bool writable);

 private:
  size_t num_bytes_;
};

// Memory by cuMemAlloc.
class AllocatedRange : public Range {
 public:
  explicit AllocatedRange(size_t num_bytes);
  ~AllocatedRange() override;
};

// Another process's memory by its legacy handle.
class OpenedRange : public Range {
 public:
  explicit OpenedRange(const CUipcMemHandle& handle);
  ~OpenedRange() override;
};

}  // namespace pdrt::cuda
