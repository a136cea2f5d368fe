#include "device_memory.h"

#include <fcntl.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "errors.h"

namespace pdrt::cuda {
namespace {

// Memory that a process on the same machine can import from a descriptor.
CUmemAllocationProp exportable(int device) {
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, {device}};
  return prop;
}

std::string gib(size_t num_bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f GiB", static_cast<double>(num_bytes) / (1u << 30));
  return text;
}

// The context must be current.
[[noreturn]] void throw_out_of_memory(int device, size_t num_bytes, const CudaError& cause) {
  size_t free = 0, total = 0;
  PDRT_CU(cuMemGetInfo, &free, &total);
  throw CudaOutOfMemory(
      cause.code(), join("device ", device, " (", name_of(device), ") cannot give ", gib(num_bytes),
                         ": ", gib(free), " of ", gib(total),
                         " are free; give a smaller --mem-fraction-static or --num-pages, or end "
                         "what else uses the device (",
                         cause.what(), ")"));
}

[[noreturn]] void throw_not_attached(const std::string& what, int device, size_t num_bytes,
                                     const CudaError& cause) {
  throw CudaError(cause.code(), join(what, " cannot be mapped as ", num_bytes, " bytes for device ",
                                     device, ": ", cause.what()));
}

Descriptor duplicate(int fd) {
  Descriptor own(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (own.get() < 0) throw_os_error(errno, join("descriptor ", fd, " cannot be duplicated"));
  return own;
}

void check_supported(int device, CUdevice_attribute attribute, const char* what) {
  if (attribute_of(device, attribute) == 0)
    throw CudaError(CUDA_ERROR_NOT_SUPPORTED, join("device ", device, " (", name_of(device),
                                                   ") has no ", what, "; use --memory-export ipc"));
}

void check_vmm(int device) {
  check_supported(device, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
                  "virtual memory management (VMM)");
  check_supported(device, CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED,
                  "export of memory as a file descriptor");
}

// cuMemAlloc gives small allocations a common block, and an IPC handle opens the whole block.
constexpr size_t kIpcUnit = size_t{2} << 20;

size_t rounded_up(size_t num_bytes, size_t unit) { return (num_bytes + unit - 1) / unit * unit; }

}  // namespace

size_t vmm_granularity(int device) {
  size_t granularity = 0;
  CUmemAllocationProp prop = exportable(device);
  PDRT_CU(cuMemGetAllocationGranularity, &granularity, &prop, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);
  return granularity;
}

DeviceMemory::DeviceMemory(int device, size_t num_bytes)
    : context_(device), num_bytes_(num_bytes), mapped_bytes_(num_bytes) {}

DeviceMemory::~DeviceMemory() {
  if (range_ == nullptr || driver().cuCtxPushCurrent(context_.get()) != CUDA_SUCCESS) {
    (void)range_.release();  // the driver has ended, and with it the mapping
    return;
  }
  driver().cuCtxSynchronize();
  range_.reset();
  CUcontext popped;
  driver().cuCtxPopCurrent(&popped);
}

std::shared_ptr<DeviceMemory> DeviceMemory::create_vmm(int device, size_t num_bytes) {
  check_vmm(device);
  std::shared_ptr<DeviceMemory> memory(new DeviceMemory(device, num_bytes));
  Current current(memory->context_);
  memory->mapped_bytes_ = rounded_up(num_bytes, vmm_granularity(device));
  Allocation allocation = memory->allocate();
  memory->fd_ = memory->export_fd(allocation);
  memory->map(allocation, true);
  return memory;
}

Allocation DeviceMemory::allocate() const {
  CUmemGenericAllocationHandle handle;
  CUmemAllocationProp prop = exportable(device());
  try {
    PDRT_CU(cuMemCreate, &handle, mapped_bytes_, &prop, 0);
  } catch (const CudaOutOfMemory& error) {
    throw_out_of_memory(device(), mapped_bytes_, error);
  }
  return Allocation(handle);
}

Descriptor DeviceMemory::export_fd(const Allocation& allocation) const {
  int fd = -1;
  PDRT_CU(cuMemExportToShareableHandle, &fd, allocation.get(),
          CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
  Descriptor made(fd);
  return duplicate(fd);  // closed on exec, whatever the driver's flags are
}

void DeviceMemory::map(const Allocation& allocation, bool writable) {
  auto range = std::make_unique<MappedRange>(allocation, mapped_bytes_);
  enforced_ = range->allow(device(), writable);
  if (writable) enforced_ = true;
  writable_ = writable;
  range_ = std::move(range);
}

std::shared_ptr<DeviceMemory> DeviceMemory::attach_fd(int device, int fd, size_t num_bytes,
                                                      bool writable) {
  Descriptor own = duplicate(fd);
  check_vmm(device);
  std::shared_ptr<DeviceMemory> memory(new DeviceMemory(device, num_bytes));
  Current current(memory->context_);
  memory->mapped_bytes_ = rounded_up(num_bytes, vmm_granularity(device));
  memory->fd_ = std::move(own);
  try {
    CUmemGenericAllocationHandle handle;
    auto value = reinterpret_cast<void*>(static_cast<intptr_t>(memory->fd()));
    PDRT_CU(cuMemImportFromShareableHandle, &handle, value,
            CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    memory->map(Allocation(handle), writable);
  } catch (const CudaError& error) {
    throw_not_attached(join("descriptor ", fd), device, num_bytes, error);
  }
  return memory;
}

std::shared_ptr<DeviceMemory> DeviceMemory::create_ipc(int device, size_t num_bytes) {
  std::shared_ptr<DeviceMemory> memory(new DeviceMemory(device, num_bytes));
  Current current(memory->context_);
  memory->mapped_bytes_ = rounded_up(num_bytes, kIpcUnit);
  try {
    memory->range_ = std::make_unique<AllocatedRange>(memory->mapped_bytes_);
  } catch (const CudaOutOfMemory& error) {
    throw_out_of_memory(device, memory->mapped_bytes_, error);
  }
  CUipcMemHandle handle;
  PDRT_CU(cuIpcGetMemHandle, &handle, memory->range_->address());
  std::memcpy(memory->ipc_handle_.data(), &handle, sizeof handle);
  return memory;
}

std::shared_ptr<DeviceMemory> DeviceMemory::attach_ipc(int device, const IpcHandle& handle,
                                                       size_t num_bytes, bool writable) {
  std::shared_ptr<DeviceMemory> memory(new DeviceMemory(device, num_bytes));
  Current current(memory->context_);
  CUipcMemHandle given;
  std::memcpy(&given, handle.data(), sizeof given);
  try {
    memory->range_ = std::make_unique<OpenedRange>(given);
  } catch (const CudaError& error) {
    throw_not_attached("the IPC handle", device, num_bytes, error);
  }
  memory->mapped_bytes_ = rounded_up(num_bytes, kIpcUnit);
  memory->ipc_handle_ = handle;
  memory->writable_ = writable;
  memory->enforced_ = writable;  // legacy IPC has no read-only mapping
  return memory;
}

}  // namespace pdrt::cuda
