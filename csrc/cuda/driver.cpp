#include "driver.h"

#include <cstring>

#include "errors.h"

namespace pdrt::cuda {
namespace {

// Every function used here exists since then.
constexpr int kOldestDriver = 12000;

Version version_of(int number) { return {number / 1000, number % 1000 / 10}; }

std::string dotted(Version version) { return join(version.first, ".", version.second); }

void check_driver() {
  int version = 0;
  PDRT_CUDART(cudaDriverGetVersion, &version);
  if (version == 0)
    throw CudaUnavailable(
        CUDA_ERROR_NOT_INITIALIZED,
        "CUDA cannot be used: this process finds no NVIDIA driver (libcuda.so.1); "
        "install one, or give the container the GPU, or run on the CPU");
  if (version < kOldestDriver)
    throw CudaUnavailable(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH,
                          join("CUDA cannot be used: the NVIDIA driver serves CUDA ",
                               dotted(version_of(version)), " at most, pdrt needs ",
                               dotted(version_of(kOldestDriver)), "; install a newer driver"));
}

void* look_up(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  PDRT_CUDART(cudaGetDriverEntryPointByVersion, name, &function, kOldestDriver, cudaEnableDefault,
              &found);
  if (function == nullptr || found != cudaDriverEntryPointSuccess)
    throw CudaUnavailable(
        CUDA_ERROR_NOT_FOUND,
        join("CUDA cannot be used: the NVIDIA driver has no ", name, "; install a newer driver"));
  return function;
}

Driver look_up_all() {
  check_driver();
  Driver found{};
#define PDRT_LOOK_UP(name) found.name = reinterpret_cast<decltype(found.name)>(look_up(#name));
  PDRT_DRIVER_CALLS(PDRT_LOOK_UP)
#undef PDRT_LOOK_UP
  CUresult result = found.cuInit(0);
  if (result != CUDA_SUCCESS) {
    const char* text = "unknown error";
    found.cuGetErrorString(result, &text);
    throw CudaUnavailable(
        result, join("CUDA cannot be used: the driver does not start: ", text, " (cuInit, ",
                     static_cast<int>(result), "); see whether nvidia-smi lists a device"));
  }
  return found;
}

}  // namespace

const Driver& driver() {
  static const Driver functions = look_up_all();  // tried again at the next use if it throws
  return functions;
}

Version driver_version() {
  driver();
  int version = 0;
  PDRT_CUDART(cudaDriverGetVersion, &version);
  return version_of(version);
}

Version runtime_version() {
  int version = 0;
  PDRT_CUDART(cudaRuntimeGetVersion, &version);
  return version_of(version);
}

int num_devices() {
  int count = 0;
  PDRT_CU(cuDeviceGetCount, &count);
  return count;
}

CUdevice device_of(int device) {
  int count = num_devices();
  if (device < 0 || device >= count)
    throw CudaUnavailable(CUDA_ERROR_INVALID_DEVICE,
                          join("device ", device, " does not exist: this process sees ", count,
                               " of them, numbered from 0; CUDA_VISIBLE_DEVICES may hide others"));
  CUdevice found;
  PDRT_CU(cuDeviceGet, &found, device);
  return found;
}

int attribute_of(int device, CUdevice_attribute attribute) {
  int value = 0;
  PDRT_CU(cuDeviceGetAttribute, &value, attribute, device_of(device));
  return value;
}

std::string name_of(int device) {
  char name[256] = "";
  PDRT_CU(cuDeviceGetName, name, sizeof name, device_of(device));
  return name;
}

}  // namespace pdrt::cuda
