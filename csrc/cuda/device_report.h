// What a device is and can do, asked once at start-up and by `python -m pdrt.doctor`.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

namespace pdrt::cuda {

struct DeviceReport {
  int device;
  std::string name, uuid, pci_bus_id;
  std::pair<int, int> compute_capability;
  int num_sms;
  int l2_bytes;
  int shared_bytes_per_block;  // the most that a kernel may ask for
  size_t memory_free, memory_total;
  std::string compute_mode;
  bool supports_vmm, supports_fd_export, supports_ipc_export, supports_ipc_events,
      supports_bulk_copy;
  size_t vmm_granularity;  // 0 without VMM
};

// Makes a context for the time of the call, as free memory and IPC are asked of one.
DeviceReport device_report(int device);

}  // namespace pdrt::cuda
