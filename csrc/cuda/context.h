// A device's primary context: the one that torch, the runtime and Triton use as well.
#pragma once

#include <cuda.h>

namespace pdrt::cuda {

// Keeps the context alive for as long as it lives itself.
class PrimaryContext {
 public:
  // Throws CudaUnavailable, CudaError.
  explicit PrimaryContext(int device);
  ~PrimaryContext();
  PrimaryContext(const PrimaryContext&) = delete;
  PrimaryContext& operator=(const PrimaryContext&) = delete;

  int device() const { return device_; }
  CUcontext get() const { return context_; }

 private:
  int device_;
  CUdevice handle_;
  CUcontext context_ = nullptr;
};

// Makes a context the calling thread's current one, and puts back the one before.
class Current {
 public:
  explicit Current(const PrimaryContext& context);
  ~Current();
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;
};

}  // namespace pdrt::cuda
