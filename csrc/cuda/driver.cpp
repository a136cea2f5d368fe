#include "driver.h"

#include <dlfcn.h>

#include "errors.h"

namespace pdrt::cuda {
namespace {

// Every function used here exists since then.
constexpr int kOldestDriver = 12000;

Version version_of(int number) { return {number / 1000, number % 1000 / 10}; }

std::string dotted(Version version) { return join(version.first, ".", version.second); }

[[noreturn]] void throw_unavailable(int code, const std::string& why) {
  throw CudaUnavailable(code, "CUDA cannot be used: " + why);
}

// The driver's library, which stays loaded; the runtime loads the same one for itself.
void* load() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr)
    throw_unavailable(
        CUDA_ERROR_NOT_INITIALIZED,
        "this process finds no NVIDIA driver (libcuda.so.1); install one, or give the "
        "container the GPU, or run on the CPU");
  return library;
}

template <typename Function>
Function symbol(void* library, const char* name) {
  void* found = dlsym(library, name);
  if (found == nullptr)
    throw_unavailable(CUDA_ERROR_NOT_FOUND,
                      join("the NVIDIA driver has no ", name, "; install a newer driver"));
  return reinterpret_cast<Function>(found);
}

void check_version(void* library) {
  int version = 0;
  symbol<decltype(&::cuDriverGetVersion)>(library, "cuDriverGetVersion")(&version);
  if (version < kOldestDriver)
    throw_unavailable(
        CUDA_ERROR_SYSTEM_DRIVER_MISMATCH,
        join("the NVIDIA driver serves CUDA ", dotted(version_of(version)), " at most, pdrt needs ",
             dotted(version_of(kOldestDriver)), "; install a newer driver"));
}

using LookUp = decltype(&::cuGetProcAddress);

// The version of a function that kOldestDriver knew, under its plain name.
void* look_up(LookUp get, const char* name) {
  void* function = nullptr;
  CUdriverProcAddressQueryResult found{};
  CUresult result = get(name, &function, kOldestDriver, CU_GET_PROC_ADDRESS_DEFAULT, &found);
  if (result != CUDA_SUCCESS || function == nullptr)
    throw_unavailable(CUDA_ERROR_NOT_FOUND,
                      join("the NVIDIA driver has no ", name, "; install a newer driver"));
  return function;
}

void start(const Driver& driver) {
  CUresult result = driver.cuInit(0);
  if (result == CUDA_SUCCESS) return;
  const char* text = "unknown error";
  driver.cuGetErrorString(result, &text);
  throw_unavailable(
      result, join("the driver does not start: ", text, " (cuInit, ", static_cast<int>(result),
                   "); see whether nvidia-smi lists a device"));
}

Driver look_up_all() {
  void* library = load();
  check_version(library);
  auto get = symbol<LookUp>(library, "cuGetProcAddress_v2");
  Driver found{};
#define PDRT_LOOK_UP(name) found.name = reinterpret_cast<decltype(found.name)>(look_up(get, #name));
  PDRT_DRIVER_CALLS(PDRT_LOOK_UP)
#undef PDRT_LOOK_UP
  start(found);
  return found;
}

}  // namespace

const Driver& driver() {
  static const Driver functions = look_up_all();  // tried again at the next use if it throws
  return functions;
}

Version driver_version() {
  int version = 0;
  PDRT_CU(cuDriverGetVersion, &version);
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
