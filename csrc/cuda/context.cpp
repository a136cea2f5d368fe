#include "context.h"

#include "errors.h"

namespace pdrt::cuda {

PrimaryContext::PrimaryContext(int device) : device_(device), handle_(device_of(device)) {
  PDRT_CU(cuDevicePrimaryCtxRetain, &context_, handle_);
}

PrimaryContext::~PrimaryContext() { driver().cuDevicePrimaryCtxRelease(handle_); }

Current::Current(const PrimaryContext& context) { PDRT_CU(cuCtxPushCurrent, context.get()); }

Current::~Current() {
  CUcontext popped;
  driver().cuCtxPopCurrent(&popped);
}

}  // namespace pdrt::cuda
