#include "ranges.h"

#include "errors.h"

namespace pdrt::cuda {

Allocation::~Allocation() { driver().cuMemRelease(handle_); }

MappedRange::MappedRange(const Allocation& allocation, size_t num_bytes) : num_bytes_(num_bytes) {
  PDRT_CU(cuMemAddressReserve, &address_, num_bytes, 0, 0, 0);
  try {
    PDRT_CU(cuMemMap, address_, num_bytes, 0, allocation.get(), 0);
  } catch (...) {  // a constructor that throws has no destructor
    driver().cuMemAddressFree(address_, num_bytes);
    throw;
  }
}

MappedRange::~MappedRange() {
  driver().cuMemUnmap(address_, num_bytes_);
  driver().cuMemAddressFree(address_, num_bytes_);
}

bool MappedRange::allow(int device, bool writable) {
  CUmemAccessDesc access{};
  access.location = {CU_MEM_LOCATION_TYPE_DEVICE, {device}};
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READ;
  if (!writable) {
    CUresult result = driver().cuMemSetAccess(address_, num_bytes_, &access, 1);
    if (result == CUDA_SUCCESS) return true;
    if (result != CUDA_ERROR_NOT_SUPPORTED && result != CUDA_ERROR_INVALID_VALUE)
      check(result, {"cuMemSetAccess", __FILE__, __LINE__});
  }
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  PDRT_CU(cuMemSetAccess, address_, num_bytes_, &access, 1);
  return writable;
}

AllocatedRange::AllocatedRange(size_t num_bytes) { PDRT_CU(cuMemAlloc, &address_, num_bytes); }

AllocatedRange::~AllocatedRange() { driver().cuMemFree(address_); }

OpenedRange::OpenedRange(const CUipcMemHandle& handle) {
  PDRT_CU(cuIpcOpenMemHandle, &address_, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
}

OpenedRange::~OpenedRange() { driver().cuIpcCloseMemHandle(address_); }

}  // namespace pdrt::cuda
