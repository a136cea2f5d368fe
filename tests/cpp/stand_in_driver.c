// Stands in for libcuda.so.1 where there is none: device memory is memory files of the host, and
// each call that matters is a line in the file TRACE. Two devices; 1 GiB is free. It shows which
// calls pdrt._C_cuda makes, in which order, and what it makes of their errors.
#define _GNU_SOURCE
#include <cuda.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))
#define GIB (1ull << 30)
#define MIB (1ull << 20)
enum { kSegments = 64 };

static struct {
  CUdeviceptr address;
  size_t size;
  int fd;
} allocated[kSegments];  // by cuMemAlloc

static CUresult traced(const char* call, CUresult result) {
  FILE* file = fopen(getenv("TRACE"), "a");
  if (file == NULL) abort();
  fprintf(file, "%s %d\n", call, (int)result);
  fclose(file);
  return result;
}
#define DONE traced(__func__, CUDA_SUCCESS)
#define FAILED(code) traced(__func__, code)

static int is_set(const char* name) { return getenv(name) != NULL; }

CUresult cuInit(unsigned flags) {
  return is_set("NO_DEVICE") && flags == 0 ? CUDA_ERROR_NO_DEVICE : CUDA_SUCCESS;
}
EXPORTED CUresult cuDriverGetVersion(int* version) {
  *version = is_set("OLD") ? 11080 : 13000;
  return CUDA_SUCCESS;
}
CUresult cuGetErrorName(CUresult error, const char** text) {
  *text = error == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_OTHER";
  return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult error, const char** text) {
  *text = error == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : "another error";
  return CUDA_SUCCESS;
}

// -- devices --------------------------------------------------------------------------------------

CUresult cuDeviceGetCount(int* count) { return *count = 2, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice* device, int number) { return *device = number, CUDA_SUCCESS; }
CUresult cuDeviceGetName(char* name, int size, CUdevice device) {
  return snprintf(name, size, "Stand-in %d", device), CUDA_SUCCESS;
}
CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice device) {
  return memset(uuid, 0xa0 + device, sizeof *uuid), CUDA_SUCCESS;
}
CUresult cuDeviceGetPCIBusId(char* text, int size, CUdevice device) {
  return snprintf(text, size, "0000:0%d:00.0", device), CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  (void)device;
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
      return *value = !is_set("NO_VMM"), CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
      return *value = 9, CUDA_SUCCESS;
    default:
      return *value = 0, CUDA_SUCCESS;
  }
}

// -- contexts -------------------------------------------------------------------------------------

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  *context = (CUcontext)(intptr_t)(device + 1);
  return DONE;
}
CUresult cuDevicePrimaryCtxRelease(CUdevice device) { return (void)device, DONE; }
CUresult cuCtxPushCurrent(CUcontext context) { return (void)context, DONE; }
CUresult cuCtxPopCurrent(CUcontext* context) { return *context = NULL, DONE; }
CUresult cuCtxSynchronize(void) { return DONE; }

// -- memory ---------------------------------------------------------------------------------------

CUresult cuMemGetInfo(size_t* free, size_t* total) {
  return *free = GIB, *total = 2 * GIB, CUDA_SUCCESS;
}
CUresult cuMemGetAllocationGranularity(size_t* size, const CUmemAllocationProp* prop,
                                       CUmemAllocationGranularity_flags flags) {
  return (void)prop, (void)flags, *size = 2 * MIB, CUDA_SUCCESS;
}
static int new_file(size_t size) {
  int fd = memfd_create("stand-in", MFD_ALLOW_SEALING);
  if (fd < 0 || ftruncate(fd, (off_t)size) != 0) abort();
  return fd;
}
CUresult cuMemCreate(CUmemGenericAllocationHandle* handle, size_t size,
                     const CUmemAllocationProp* prop, unsigned long long flags) {
  (void)prop, (void)flags;
  if (size > GIB) return FAILED(CUDA_ERROR_OUT_OF_MEMORY);
  *handle = (CUmemGenericAllocationHandle)new_file(size);
  return DONE;
}
CUresult cuMemRelease(CUmemGenericAllocationHandle handle) { return close((int)handle), DONE; }
CUresult cuMemExportToShareableHandle(void* fd, CUmemGenericAllocationHandle handle,
                                      CUmemAllocationHandleType type, unsigned long long flags) {
  (void)type, (void)flags;
  *(int*)fd = dup((int)handle);
  return DONE;
}
CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* handle, void* fd,
                                        CUmemAllocationHandleType type) {
  (void)type;
  if (is_set("NO_IMPORT")) return FAILED(CUDA_ERROR_NOT_PERMITTED);
  if (fcntl((int)(intptr_t)fd, F_GET_SEALS) < 0) return FAILED(CUDA_ERROR_INVALID_VALUE);
  *handle = (CUmemGenericAllocationHandle)dup((int)(intptr_t)fd);
  return DONE;
}
CUresult cuMemAddressReserve(CUdeviceptr* address, size_t size, size_t alignment, CUdeviceptr wish,
                             unsigned long long flags) {
  (void)alignment, (void)wish, (void)flags;
  *address = (CUdeviceptr)mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return DONE;
}
CUresult cuMemAddressFree(CUdeviceptr address, size_t size) {
  return munmap((void*)address, size), DONE;
}
CUresult cuMemMap(CUdeviceptr address, size_t size, size_t offset,
                  CUmemGenericAllocationHandle handle, unsigned long long flags) {
  (void)flags;
  struct stat status;
  if (fstat((int)handle, &status) != 0 || (size_t)status.st_size < size)
    return FAILED(CUDA_ERROR_INVALID_VALUE);
  mmap((void*)address, size, PROT_NONE, MAP_SHARED | MAP_FIXED, (int)handle, (off_t)offset);
  return DONE;
}
CUresult cuMemUnmap(CUdeviceptr address, size_t size) {
  mmap((void*)address, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  return DONE;
}
CUresult cuMemSetAccess(CUdeviceptr address, size_t size, const CUmemAccessDesc* access,
                        size_t count) {
  (void)count;
  int writable = access->flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  if (!writable && is_set("NO_READ_ONLY")) return FAILED(CUDA_ERROR_NOT_SUPPORTED);
  mprotect((void*)address, size, writable ? PROT_READ | PROT_WRITE : PROT_READ);
  return DONE;
}

// -- legacy IPC: the handle is where the maker's descriptor is found
// -------------------------------

CUresult cuMemAlloc(CUdeviceptr* address, size_t size) {
  if (size > GIB) return FAILED(CUDA_ERROR_OUT_OF_MEMORY);
  int slot = 0;
  while (allocated[slot].size != 0) ++slot;
  int fd = new_file(size);
  *address = (CUdeviceptr)mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  allocated[slot].address = *address;
  allocated[slot].size = size;
  allocated[slot].fd = fd;
  return DONE;
}
CUresult cuMemFree(CUdeviceptr address) {
  for (int slot = 0; slot < kSegments; ++slot) {
    if (allocated[slot].size == 0 || allocated[slot].address != address) continue;
    munmap((void*)address, allocated[slot].size);
    close(allocated[slot].fd);
    allocated[slot].size = 0;
    return DONE;
  }
  return FAILED(CUDA_ERROR_INVALID_VALUE);
}
CUresult cuPointerGetAttribute(void* value, CUpointer_attribute attribute, CUdeviceptr at) {
  return (void)attribute, (void)at, *(int*)value = 1, CUDA_SUCCESS;
}
CUresult cuIpcGetMemHandle(CUipcMemHandle* handle, CUdeviceptr address) {
  memset(handle, 0, sizeof *handle);
  for (int slot = 0; slot < kSegments; ++slot)
    if (allocated[slot].size != 0 && allocated[slot].address == address)
      snprintf(handle->reserved, sizeof handle->reserved, "/proc/%d/fd/%d", getpid(),
               allocated[slot].fd);
  return DONE;
}
CUresult cuIpcOpenMemHandle(CUdeviceptr* address, CUipcMemHandle handle, unsigned flags) {
  (void)flags;
  int fd = open(handle.reserved, O_RDWR);
  struct stat status;
  if (fd < 0 || fstat(fd, &status) != 0) return FAILED(CUDA_ERROR_MAP_FAILED);
  size_t size = (size_t)status.st_size;
  *address = (CUdeviceptr)mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  return DONE;
}
CUresult cuIpcCloseMemHandle(CUdeviceptr address) { return (void)address, DONE; }

// -- look-up --------------------------------------------------------------------------------------

#define ENTRY(name) {#name, (void*)(name)}
static const struct {
  const char* name;
  void* function;
} entries[] = {
    ENTRY(cuInit),
    ENTRY(cuDriverGetVersion),
    ENTRY(cuGetErrorName),
    ENTRY(cuGetErrorString),
    ENTRY(cuDeviceGetCount),
    ENTRY(cuDeviceGet),
    ENTRY(cuDeviceGetName),
    ENTRY(cuDeviceGetUuid),
    ENTRY(cuDeviceGetPCIBusId),
    ENTRY(cuDeviceGetAttribute),
    ENTRY(cuDevicePrimaryCtxRetain),
    ENTRY(cuDevicePrimaryCtxRelease),
    ENTRY(cuCtxPushCurrent),
    ENTRY(cuCtxPopCurrent),
    ENTRY(cuCtxSynchronize),
    ENTRY(cuMemGetInfo),
    ENTRY(cuMemGetAllocationGranularity),
    ENTRY(cuMemCreate),
    ENTRY(cuMemRelease),
    ENTRY(cuMemExportToShareableHandle),
    ENTRY(cuMemImportFromShareableHandle),
    ENTRY(cuMemAddressReserve),
    ENTRY(cuMemAddressFree),
    ENTRY(cuMemMap),
    ENTRY(cuMemUnmap),
    ENTRY(cuMemSetAccess),
    ENTRY(cuMemAlloc),
    ENTRY(cuMemFree),
    ENTRY(cuPointerGetAttribute),
    ENTRY(cuIpcGetMemHandle),
    ENTRY(cuIpcOpenMemHandle),
    ENTRY(cuIpcCloseMemHandle),
};

EXPORTED CUresult cuGetProcAddress(const char* name, void** function, int version, cuuint64_t flags,
                                   CUdriverProcAddressQueryResult* status) {
  (void)version, (void)flags;
  *function = NULL;
  for (size_t i = 0; i < sizeof entries / sizeof *entries; ++i)
    if (strcmp(name, entries[i].name) == 0) *function = entries[i].function;
  *status = *function != NULL ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  return *function != NULL ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
