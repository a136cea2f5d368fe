#include "device_report.h"

#include <cstdio>

#include "context.h"
#include "device_memory.h"
#include "errors.h"
#include "page_copy.h"
#include "ranges.h"

namespace pdrt::cuda {
namespace {

std::string uuid_of(CUdevice device) {
  CUuuid uuid;
  PDRT_CU(cuDeviceGetUuid, &uuid, device);
  std::string text;
  for (int i = 0; i < 16; ++i) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", static_cast<unsigned char>(uuid.bytes[i]));
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += digits;
  }
  return text;
}

std::string pci_bus_id_of(CUdevice device) {
  char text[32] = "";
  PDRT_CU(cuDeviceGetPCIBusId, text, sizeof text, device);
  return text;
}

std::string compute_mode_of(int device) {
  switch (attribute_of(device, CU_DEVICE_ATTRIBUTE_COMPUTE_MODE)) {
    case CU_COMPUTEMODE_DEFAULT:
      return "default";
    case CU_COMPUTEMODE_EXCLUSIVE_PROCESS:
      return "exclusive process";
    default:
      return "prohibited";
  }
}

// Asked of a small allocation, since it depends on how memory is allocated. Needs a context.
bool has_legacy_ipc() {
  AllocatedRange sample(4096);
  int capable = 0;
  PDRT_CU(cuPointerGetAttribute, &capable, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE,
          sample.address());
  return capable != 0;
}

}  // namespace

DeviceReport device_report(int device) {
  PrimaryContext context(device);
  Current current(context);
  auto attribute = [&](CUdevice_attribute which) { return attribute_of(device, which); };
  CUdevice handle = device_of(device);
  DeviceReport report{};
  report.device = device;
  report.name = name_of(device);
  report.uuid = uuid_of(handle);
  report.pci_bus_id = pci_bus_id_of(handle);
  report.compute_capability = {attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
                               attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)};
  report.num_sms = attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
  report.l2_bytes = attribute(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
  report.shared_bytes_per_block = attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
  PDRT_CU(cuMemGetInfo, &report.memory_free, &report.memory_total);
  report.compute_mode = compute_mode_of(device);
  report.supports_vmm = attribute(CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED) != 0;
  report.supports_fd_export =
      attribute(CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED) != 0;
  report.supports_ipc_export = has_legacy_ipc();
  report.supports_ipc_events = attribute(CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED) != 0;
  report.supports_bulk_copy = supports_bulk_copy(device);
  report.vmm_granularity = report.supports_vmm ? vmm_granularity(device) : 0;
  return report;
}

}  // namespace pdrt::cuda
