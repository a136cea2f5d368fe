#include "errors.h"

#include <cstring>

namespace pdrt::cuda {
namespace {

// From "csrc/" on, wherever the build lies.
std::string place(const Call& call) {
  std::string file = call.file;
  size_t start = file.rfind("csrc/");
  return join(start == std::string::npos ? file : file.substr(start), ":", call.line);
}

[[noreturn]] void throw_failed(const Call& call, int code, const char* name, const char* text) {
  std::string what =
      join(call.name, " failed: ", text, " (", name, ", ", code, ") at ", place(call));
  if (code == CUDA_ERROR_OUT_OF_MEMORY) throw CudaOutOfMemory(code, what);
  throw CudaError(code, what);
}

}  // namespace

void throw_failed(const Call& call, CUresult result) {
  const char *name = "unknown", *text = "unknown error";
  driver().cuGetErrorName(result, &name);
  driver().cuGetErrorString(result, &text);
  throw_failed(call, result, name, text);
}

void throw_failed(const Call& call, cudaError_t result) {
  throw_failed(call, result, cudaGetErrorName(result), cudaGetErrorString(result));
}

}  // namespace pdrt::cuda
