// The driver's functions, looked up at run time: linking libcuda would tie the extension to
// machines that have a driver, and it is built and imported on others too.
#pragma once

#include <cuda.h>

#include <string>
#include <utility>

namespace pdrt::cuda {

// cuda.h renames some of them (cuMemGetInfo is cuMemGetInfo_v2): member and use are renamed alike.
// clang-format off
#define PDRT_DRIVER_CALLS(X)                                                                      \
  X(cuInit) X(cuDriverGetVersion) X(cuGetErrorName) X(cuGetErrorString)                           \
  X(cuDeviceGet) X(cuDeviceGetCount) X(cuDeviceGetName) X(cuDeviceGetUuid)                        \
  X(cuDeviceGetPCIBusId) X(cuDeviceGetAttribute)                                                  \
  X(cuDevicePrimaryCtxRetain) X(cuDevicePrimaryCtxRelease)                                        \
  X(cuCtxPushCurrent) X(cuCtxPopCurrent) X(cuCtxSynchronize)                                      \
  X(cuMemGetInfo) X(cuMemAlloc) X(cuMemFree) X(cuPointerGetAttribute)                             \
  X(cuMemGetAllocationGranularity) X(cuMemCreate) X(cuMemRelease)                                 \
  X(cuMemExportToShareableHandle) X(cuMemImportFromShareableHandle)                               \
  X(cuMemAddressReserve) X(cuMemAddressFree) X(cuMemMap) X(cuMemUnmap) X(cuMemSetAccess)          \
  X(cuIpcGetMemHandle) X(cuIpcOpenMemHandle) X(cuIpcCloseMemHandle)
// clang-format on

struct Driver {
#define PDRT_MEMBER(name) decltype(&::name) name;
  PDRT_DRIVER_CALLS(PDRT_MEMBER)
#undef PDRT_MEMBER
};

// The functions, looked up and initialised at the first use. Throws CudaUnavailable.
const Driver& driver();

using Version = std::pair<int, int>;
Version driver_version();   // the newest CUDA that the driver serves; throws CudaUnavailable
Version runtime_version();  // of the runtime linked into the extension
int num_devices();          // throws CudaUnavailable

// The number of a device for the driver. Throws CudaUnavailable if there is none of that number.
CUdevice device_of(int device);
int attribute_of(int device, CUdevice_attribute attribute);
std::string name_of(int device);

}  // namespace pdrt::cuda
