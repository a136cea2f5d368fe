// The CUDA extension's table of contents. Types and docs for Python: pdrt/_C_cuda.pyi.
#include "bindings.h"

#include <cuda_runtime_api.h>

#include <string>

#include "../translate_errors.h"

#define PDRT_TEXT_OF(tokens) #tokens
#define PDRT_TEXT(tokens) PDRT_TEXT_OF(tokens)

namespace {

// "cuda 13.0 (sm_80+sm_90+compute_90)"
std::string build() {
  return "cuda " + std::to_string(CUDART_VERSION / 1000) + "." +
         std::to_string(CUDART_VERSION % 1000 / 10) + " (" + PDRT_TEXT(PDRT_CUDA_ARCHITECTURES) +
         ")";
}

}  // namespace

PYBIND11_MODULE(_C_cuda, m) {
  pybind11::register_local_exception_translator(pdrt::translate_system_error);
  m.attr("BUILD") = build();
  pdrt::cuda::bind_errors(m);
  pdrt::cuda::bind_devices(m);
  pdrt::cuda::bind_device_memory(m);
  pdrt::cuda::bind_page_copy(m);
}
