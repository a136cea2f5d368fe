// Every call of CUDA goes through PDRT_CU or PDRT_CUDART, which throw what the call answered: its
// name, code and text, and the line that made it.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

#include "../check.h"
#include "driver.h"

namespace pdrt::cuda {

class CudaError : public std::runtime_error {
 public:
  CudaError(int code, const std::string& what) : std::runtime_error(what), code_(code) {}
  int code() const { return code_; }

 private:
  int code_;
};

// No driver, no device, or no device of that number.
class CudaUnavailable : public CudaError {
 public:
  using CudaError::CudaError;
};

class CudaOutOfMemory : public CudaError {
 public:
  using CudaError::CudaError;
};

struct Call {
  const char* name;
  const char* file;
  int line;
};

[[noreturn]] void throw_failed(const Call& call, CUresult result);
[[noreturn]] void throw_failed(const Call& call, cudaError_t result);

inline void check(CUresult result, const Call& call) {
  if (result != CUDA_SUCCESS) throw_failed(call, result);
}
inline void check(cudaError_t result, const Call& call) {
  if (result != cudaSuccess) throw_failed(call, result);
}

}  // namespace pdrt::cuda

#define PDRT_CU(call, ...)                                      \
  ::pdrt::cuda::check(::pdrt::cuda::driver().call(__VA_ARGS__), \
                      ::pdrt::cuda::Call{#call, __FILE__, __LINE__})
#define PDRT_CUDART(call, ...) \
  ::pdrt::cuda::check(call(__VA_ARGS__), ::pdrt::cuda::Call{#call, __FILE__, __LINE__})
